"""To whom what is restored belongs, and the directories that a restore has to make for it."""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Callable
from pathlib import Path

from kiwi_id.backup.collect import DATABASE, KEYS
from kiwi_id.backup.manifest import Directory, Manifest, Member
from kiwi_id.backup.relocate import Plan
from kiwi_id.instance import owners
from kiwi_id.instance.owners import Owner


class Giver:
    """Finds users and groups by the names that they had; ``strangers`` are those that this machine does not know."""

    def __init__(self) -> None:
        self.strangers: set[str] = set()

    def owner(self, of: Member | Directory) -> Owner | None:
        """Return the user and group that a file had; only root can give it to them, and who restores a trial needs not."""
        if os.geteuid() != 0:
            return None
        user = self._number(of.owner, lambda name: pwd.getpwnam(name).pw_uid)
        return user, self._number(of.group, lambda name: grp.getgrnam(name).gr_gid)

    def _number(self, name: str, look_up: Callable[[str], int]) -> int:
        try:
            return int(name) if name.isdecimal() else look_up(name)
        except KeyError:
            self.strangers.add(name)
            return -1


class Directories:
    """Makes those that are missing, with the mode and owner that they had; those that are there stay as they are."""

    def __init__(self, manifest: Manifest, planned: Plan, giver: Giver) -> None:
        self._giver = giver
        self._known: dict[Path, Directory] = {}
        self._holds: dict[Path, list[Member]] = {}
        recorded = {directory.path: directory for directory in manifest.directories}
        for member in manifest.members:
            new = planned.places[member.path]
            self._holds.setdefault(new.parent, []).append(member)
            for old, place in zip(Path(member.path).parents, new.parents, strict=False):
                if old.name != place.name and str(old) != manifest.root:
                    break
                if str(old) in recorded:
                    self._known.setdefault(place, recorded[str(old)])

    def make(self, directory: Path, owner: Owner | None = None) -> None:
        """Make a directory and those above it that are missing; ``owner`` counts more than whose it was. Raises OSError."""
        if directory.is_dir():
            return
        self.make(directory.parent)
        known, holds = self._known.get(directory), self._holds.get(directory, [])
        if known is not None:
            owners.make_directory(directory, int(known.mode, 8), owner or self._giver.owner(known))
        elif holds and all(int(member.mode, 8) & 0o077 == 0 or member.role in (DATABASE, KEYS) for member in holds):
            # Of a backup that does not tell: nobody else could read what was in there.
            owners.make_directory(directory, 0o700, owner or self._giver.owner(holds[0]))
        else:
            owners.make_directory(directory, 0o755, owner)
