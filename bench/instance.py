"""An instance in a temporary directory for the bench programs, over a kanidmd or over the bench upstream."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from kiwi_id.instance.layout import Options, Places, create
from kiwi_id.instance.ports import free_port
from kiwi_id.values import Address

ROOT = Path(__file__).resolve().parent.parent
KIWI_ID = [sys.executable, "-m", "kiwi_id"]


@dataclass(frozen=True)
class Instance:
    """Where the instance's files are, and the ports of its front and of its kanidmd."""

    places: Places
    binary: Path
    front: int
    upstream: int

    @property
    def run(self) -> list[str]:
        """The command that runs it."""
        return [*KIWI_ID, "run", "--config", str(self.places.config)]


def bench_upstream(directory: Path) -> Path:
    """Write an executable that is the bench upstream."""
    binary = directory / "bench-upstream"
    lines = [f"#!{sys.executable}", "import sys", f"sys.path.insert(0, {str(ROOT)!r})", "from bench.upstream import main", "main()"]
    binary.write_text("\n".join([*lines, ""]))
    binary.chmod(0o755)
    return binary


def find_kanidmd(option: str | None, directory: Path) -> Path:
    """Return the kanidmd that is named or installed, else the bench upstream."""
    for candidate in (option, os.environ.get("KIWI_TEST_KANIDMD"), "/opt/upstream/bin/kanidmd"):
        if candidate and Path(candidate).exists():
            return Path(candidate).absolute()
    return bench_upstream(directory)


def make(directory: Path, binary: Path) -> Instance:
    """Make an instance below ``directory``, on free ports of the loopback, with plain HTTP towards clients."""
    front, upstream = free_port(), free_port()
    options = Options(
        domain="id.example.com",
        listen=Address("127.0.0.1", front),
        upstream=Address("127.0.0.1", upstream),
        upstream_bin=binary,
    )
    create(directory / "instance", options)
    return Instance(Places.under(directory / "instance"), binary, front, upstream)
