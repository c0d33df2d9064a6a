"""The stand-in for kanidmd 1.5.0: a separate process with Kanidm's command line, for development and for the test suite.

What may live here: code that behaves like the real server where Kiwi ID's flows touch it (process, signals, admin socket,
REST, login pages, OAuth2). What may not: anything production code imports, and anything of Kanidm's own code or pages.
The answers are held against recordings of the real server by `tests/devserver/test_shapes.py`.
"""

import sys
from pathlib import Path

__all__ = ["KANIDM_VERSION", "install"]

KANIDM_VERSION = "1.5.0"
"""The Kanidm version whose behaviour this package reproduces."""

_SCRIPT = """#!{python}
# The Kiwi ID stand-in for kanidmd, for development and tests only. Written by kiwi_id.devserver.install().
import sys

sys.path.insert(0, {root!r})

from kiwi_id.devserver.__main__ import main

sys.exit(main())
"""


def install(target: Path) -> None:
    """Write an executable script at `target` that behaves as `kanidmd`.

    The script runs under this interpreter and finds this package by its path, so nothing has to be installed. An existing
    file is replaced in one step. Raises OSError when the directory cannot be written.
    """
    root = Path(__file__).resolve().parent.parent.parent
    scratch = target.with_name(target.name + ".new")
    scratch.write_text(_SCRIPT.format(python=sys.executable, root=str(root)), encoding="utf-8")
    scratch.chmod(0o755)
    scratch.replace(target)
