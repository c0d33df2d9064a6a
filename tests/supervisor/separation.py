"""An instance whose kanidmd runs as another user, made ready as the documentation says."""

from __future__ import annotations

import os
import shlex
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from kiwi_id.privileges import Account, find_account
from tests.supervisor.kiwi import Kiwi

USER = "daemon"
CAPABILITIES = "+kill,+setuid,+setgid"


def account() -> Account:
    """The user of kanidmd, one that every Linux has."""
    found = find_account(USER, "", Path("test"))
    assert found is not None
    return found


def separate(kiwi: Kiwi) -> Kiwi:
    """Do what docs/configuration.md tells to do for ``upstream_user``. Skips the test without the rights for that."""
    if os.getuid() != 0 or not shutil.which("setpriv") or not shutil.which("unshare"):
        pytest.skip("needs root, unshare and setpriv to run kanidmd as another user")
    user = account()
    places = kiwi.places
    kiwi.directory.chmod(0o711)
    kiwi.set(upstream_user=USER)
    server = places.upstream_config
    server.write_text(
        server.read_text().replace(f"{places.runtime_dir}/kanidmd.sock", f"{places.runtime_dir}/upstream/kanidmd.sock")
    )
    os.chown(places.database.parent, user.uid, user.gid)
    places.database.parent.chmod(0o700)
    os.chown(places.key, 0, user.gid)
    places.key.chmod(0o640)
    events = server.with_name("events.jsonl")  # of the scripted kanidmd, which makes it beside server.toml
    events.touch()
    os.chown(events, user.uid, user.gid)
    return kiwi


def opened(kiwi: Kiwi, *programs: Path) -> list[str]:
    """Return a command before Kiwi ID's, in whose mount namespace ``programs`` can be reached by everybody.

    A Python or kanidmd below a home directory is closed to other users: the directory that closes it is replaced by one that has
    the same in it, and is open. Skips the test where that is not permitted.
    """
    closed = {parent for program in programs for parent in program.resolve().parents if not parent.stat().st_mode & stat.S_IXOTH}
    lines = []
    for number, directory in enumerate(sorted(closed)):
        there, old = shlex.quote(str(directory)), shlex.quote(str(kiwi.directory / f"old-{number}"))
        lines += [f"mkdir -p {old} && mount --rbind {there} {old} && mount -t tmpfs -o mode=755 none {there} || exit 70"]
        lines += [f"for from in {old}/* {old}/.[!.]*; do to={there}/${{from##*/}}"]
        lines += ['if [ -d "$from" ]; then mkdir "$to"; elif [ -e "$from" ]; then : > "$to"; else continue; fi']
        lines += ['mount --rbind "$from" "$to" || exit 70; done']
    command = ["unshare", "--mount", "sh", "-c", "\n".join([*lines, 'exec "$@"']), "sh"]
    done = subprocess.run([*command, "true"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a mount namespace is not permitted here: {done.stderr.strip()[-200:]}")
    return command


def status(pid: int) -> dict[str, str]:
    """Return what /proc tells of a process, value by name."""
    rows = (line.partition(":\t") for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {name: value.strip() for name, _, value in rows}
