"""A Kanidm without a Kiwi ID before it, and the files of one: what the commands need that work in Kanidm itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trio

from kiwi_id import config
from kiwi_id.instance import keys
from kiwi_id.kanidm import server_toml
from kiwi_id.kanidm.pin import client_context
from kiwi_id.kanidm.rest import Kanidm, LoginDenied
from tests.devserver.servers import Server

ROOT = Path(__file__).parent.parent.parent
SECONDS = 60


class World:
    """A running Kanidm in ``directory``, empty at first, with the config.toml of an instance over it."""

    def __init__(self, directory: Path, command: Sequence[str]) -> None:
        self.directory = directory
        self.kanidmd = Server(directory, command)
        keys.generate_pair(directory / "jwt-private.pem", directory / "jwt-public.pem", kind="es256")
        self.config_file = directory / "config.toml"
        self.config_file.write_text(
            f'listen_addr = "127.0.0.1:1"\nupstream_addr = "https://127.0.0.1:{self.kanidmd.port}"\n'
            f'upstream_config = "{directory / "server.toml"}"\nruntime_dir = "{directory}"\n'
            f'jwt_private_key = "{directory / "jwt-private.pem"}"\njwt_public_key = "{directory / "jwt-public.pem"}"\n'
        )

    @property
    def config(self) -> config.Config:
        """Its config.toml, read."""
        return config.load(self.config_file)

    @property
    def server(self) -> server_toml.ServerToml:
        """Its server.toml, read."""
        return server_toml.load(self.directory / "server.toml")

    @property
    def token(self) -> Path:
        """Where the token of our account is to be."""
        return self.directory / "kanidm-token"

    def run(self, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
        """Run the real ``kiwi-id`` with these arguments, and ``given`` on its standard input."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("KIWI_", "KANIDM_"))}
        environment["KIWI_CONFIG"] = str(self.config_file)
        command = [sys.executable, "-m", "kiwi_id", *arguments]
        return subprocess.run(
            command, cwd=ROOT, env=environment, input=given, capture_output=True, text=True, timeout=SECONDS, check=False
        )

    def ok(self, *arguments: str, given: str = "") -> str:
        """Run ``kiwi-id``, which must work and say nothing on standard error; return its output."""
        done = self.run(*arguments, given=given)
        assert (done.returncode, done.stderr) == (0, ""), (arguments, done)
        return done.stdout

    def json(self, *arguments: str) -> Any:
        """Run ``kiwi-id`` with ``--json`` and return the answer."""
        return json.loads(self.ok(*arguments, "--json"))

    def client(self) -> Kanidm:
        """Return a REST client that is not signed in."""
        return Kanidm(self.kanidmd.url, client_context(self.directory / "chain.pem"))

    def recover(self, name: str = "idm_admin") -> str:
        """Do what an administrator does by hand: give an account a new password, and return it."""
        return trio.run(self.kanidmd.recover, name)

    def accepts(self, name: str, password: str) -> bool:
        """Tell whether Kanidm lets somebody in with this password."""

        async def try_it() -> bool:
            async with self.client() as kanidm:
                try:
                    await kanidm.login(name, password)
                except LoginDenied:
                    return False
            return True

        return trio.run(try_it)


@contextmanager
def made(command: Sequence[str]) -> Iterator[World]:
    """Make a world, start its Kanidm, and end both."""
    # Not pytest's tmp_path: a Unix socket's path may have 107 bytes.
    with tempfile.TemporaryDirectory(prefix="kiwi-") as directory:
        world = World(Path(directory), command)
        try:
            trio.run(world.kanidmd.start)
            yield world
        finally:
            trio.run(world.kanidmd.stop)
