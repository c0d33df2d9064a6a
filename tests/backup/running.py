"""Running the real commands, and the instance that a restore has made."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from kiwi_id.instance import layout
from kiwi_id.kanidm import server_toml
from tests.kanidm.instance import ROOT, Instance


def kiwi_id(*arguments: str | Path, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run ``kiwi-id`` with these arguments to its end."""
    command = [sys.executable, "-m", "kiwi_id", *map(str, arguments)]
    return subprocess.run(
        command,
        cwd=ROOT,
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


async def launch(directory: Path) -> Instance:
    """Start the instance under ``directory`` and wait until it serves."""
    instance = _spawn(directory)
    try:
        await instance.wait_ready()
    except BaseException:
        instance.process.kill()
        instance.process.wait()
        raise
    return instance


def _spawn(directory: Path) -> Instance:
    places = layout.Places.under(directory)
    server = server_toml.load(places.upstream_config)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("KIWI_", "KANIDM_"))}
    command = [sys.executable, "-m", "kiwi_id", "run", "--config", str(places.config)]
    with (directory / "stderr.log").open("ab") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
    return Instance(directory, server.origin, server, process)
