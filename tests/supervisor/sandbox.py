"""Run Kiwi ID in the sandbox of a unit in systemd/, as far as it can be built without systemd.

Run as a script, in place of ``-m kiwi_id``. Reads the unit itself, so that what is tested is what is shipped: the system calls of
``SystemCallFilter``, ``MemoryDenyWriteExecute`` and ``NoNewPrivileges``. Capabilities and the read-only file system are set by the
command before it (see test_units.py).
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

UNIT = Path(__file__).parents[2] / "systemd" / "kiwi-id.service"
BACKUP = UNIT.with_name("kiwi-id-backup.service")
# Path of the unit whose sandbox it is to be, by default UNIT's; and the name of a drop-in, when it is to be the one with that.
UNIT_VARIABLE = "KIWI_TEST_UNIT"
VARIABLE = "KIWI_TEST_DROP_IN"
_PR_SET_NO_NEW_PRIVS, _PR_SET_MDWE, _REFUSE_EXEC_GAIN = 38, 65, 1
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM


def text(drop_in: str = "", unit: Path = UNIT) -> str:
    """Return the unit's text, with that of a drop-in behind it."""
    return unit.read_text() + ("\n" + (unit.with_name(unit.name + ".d") / f"{drop_in}.conf").read_text() if drop_in else "")


def settings(drop_in: str = "", unit: Path = UNIT) -> dict[str, list[str]]:
    """Return the unit's settings; one that is given twice has two values, and an empty value takes back those before it."""
    found: dict[str, list[str]] = {}
    for line in text(drop_in, unit).splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found[name] = [*found.get(name, []), value] if value else []
    return found


def allowed_calls(filters: list[str]) -> set[str]:
    """Return the names of the system calls that the values of SystemCallFilter leave."""
    calls: set[str] = set()
    for value in filters:
        names = {name for word in value.removeprefix("~").split() for name in _expand(word)}
        calls = calls - names if value.startswith("~") else calls | names
    return calls


def _expand(word: str) -> set[str]:
    if not word.startswith("@"):
        return {word}
    analyze = shutil.which("systemd-analyze") or "systemd-analyze"
    text = subprocess.run([analyze, "syscall-filter", word], capture_output=True, text=True, check=True).stdout
    words = [line.strip() for line in text.splitlines()[1:]]
    return {name for inner in words if inner and not inner.startswith("#") for name in _expand(inner)}


def _enter(calls: set[str]) -> None:
    libc, seccomp = ctypes.CDLL(None, use_errno=True), ctypes.CDLL("libseccomp.so.2")
    seccomp.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(seccomp.seccomp_init(_REFUSE))
    for name in calls:
        number = seccomp.seccomp_syscall_resolve_name(name.encode())
        if number >= 0:
            seccomp.seccomp_rule_add_array(context, _ALLOW, number, 0, None)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(_PR_SET_MDWE, _REFUSE_EXEC_GAIN, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    if seccomp.seccomp_load(context):
        raise OSError("seccomp_load")


if __name__ == "__main__":
    _unit = Path(os.environ.get(UNIT_VARIABLE) or UNIT)
    _enter(allowed_calls(settings(os.environ.get(VARIABLE, ""), _unit)["SystemCallFilter"]))
    os.execv(sys.executable, [sys.executable, "-m", "kiwi_id", *sys.argv[1:]])  # noqa: S606
