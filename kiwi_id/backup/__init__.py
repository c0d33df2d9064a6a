"""Backup and restore of an instance: one archive with the database, keys, certificates and settings, checked as it is made.

:mod:`~kiwi_id.backup.archive` and :mod:`~kiwi_id.backup.manifest` are the format, :mod:`~kiwi_id.backup.crypt` its encryption,
:mod:`~kiwi_id.backup.collect` says what belongs to an instance, :mod:`~kiwi_id.backup.create` and :mod:`~kiwi_id.backup.restore` do
what the two commands say.
"""

from __future__ import annotations

from kiwi_id.errors import Exit, KiwiError


class BackupError(KiwiError):
    """A backup that cannot be made, read or restored; nothing was changed. Exit code 1."""

    exit_code = Exit.FAILURE
