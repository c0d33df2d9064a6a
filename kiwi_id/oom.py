"""Why a process was killed: whether the kernel did it for lack of memory, as far as that can be known without privileges."""

from __future__ import annotations

import re
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_KILLS = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)


class MemoryKills:
    """Counts the kernel's kills for lack of memory since it was made: in our control group where there is one, else anywhere."""

    def __init__(self, proc: Path = Path("/proc"), cgroups: Path = _CGROUPS) -> None:
        self._files = [_own_group(proc, cgroups) / "memory.events", proc / "vmstat"]
        self._before = self._read()

    def happened(self) -> bool:
        """Tell whether there was one."""
        pairs = zip(self._read(), self._before, strict=True)
        return any(now > before for now, before in pairs if now is not None and before is not None)

    def _read(self) -> list[int | None]:
        return [_count(file) for file in self._files]

    def explain(self) -> str:
        """Return, in words for the log, where a KILL that we did not send may have come from."""
        if self.happened():
            return "the kernel has killed a process for lack of memory meanwhile: give this machine, or this service, more"
        return "by somebody's kill -9, as far as can be seen; the kernel has counted no lack of memory"


def _own_group(proc: Path, cgroups: Path) -> Path:
    try:
        lines = (proc / "self/cgroup").read_text().splitlines()
    except OSError:
        return cgroups
    return next((cgroups / line[3:].lstrip("/") for line in lines if line.startswith("0::")), cgroups)


def _count(file: Path) -> int | None:
    try:
        found = _KILLS.search(file.read_text())
    except OSError:
        return None
    return int(found[1]) if found else None
