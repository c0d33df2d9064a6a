"""``kiwi-id --version``."""

from __future__ import annotations

import subprocess
import sys

from kiwi_id import __version__
from tests.supervisor.kiwi import PATIENCE


def test_version_is_printed_without_loading_anything_heavy() -> None:
    """The version, exit code 0, and neither Trio nor ssl nor Quart imported for it: orchestrators ask every few seconds."""
    program = (
        "import sys\n"
        "from kiwi_id.cli import main\n"
        "try: main(['--version'])\n"
        "except SystemExit as end: print(end.code, sorted({'trio', 'ssl', 'quart', 'cryptography'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.stdout == f"kiwi-id {__version__}\n0 []\n"
    assert done.stderr == ""


def test_health_loads_neither_trio_nor_quart() -> None:
    """The module of ``kiwi-id health`` stays light for the same reason."""
    program = "import sys, kiwi_id.cli.health; print(sorted({'trio', 'quart', 'httpx', 'cryptography'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert done.stdout == "[]\n"
