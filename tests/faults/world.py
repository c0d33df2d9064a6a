"""What the fault runner runs: one Kiwi ID over one kanidmd, with its log on a disk of its own, and what the kernel knows of it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from kiwi_id import demo
from kiwi_id.instance import layout
from kiwi_id.instance.ports import free_port
from kiwi_id.kanidm import server_toml
from kiwi_id.kanidm.admin import recover_account
from kiwi_id.values import Address
from tests.faults import counted

ROOT = Path(__file__).parent.parent.parent
START_SECONDS = 60.0
STOP_SECONDS = 60.0
# Kills come faster than any operator would allow: without this Kiwi ID gives up after five short lives, as it should.
SETTINGS = {
    "health_check_interval": "500ms",
    "health_check_timeout": "20s",
    "shutdown_timeout": "15s",
    "restart_limit": 1000,
    "log_format": "json",
}
# So that clients who do not read come to their end within a run.
LIMITS = '[limits]\nbody_timeout = "1s"\n'
LOG_DISK = 16 << 20


@dataclass
class World:
    """A running instance."""

    directory: Path
    places: layout.Places
    port: int
    upstream_port: int
    process: subprocess.Popen[bytes]
    log: Path
    log_is_a_disk: bool
    server: server_toml.ServerToml

    async def provision(self) -> tuple[demo.Demo, str]:
        """Make the demo data; return it and the password of idm_admin."""
        await self.ready(None)
        made = await demo.provision(self.server, f"https://127.0.0.1:{self.upstream_port}")
        return made, await recover_account(self.server.admin_socket, "idm_admin")

    async def ask(self, command: str) -> dict[str, Any]:
        """Ask over the control socket."""
        path = self.places.runtime_dir / "control.sock"
        async with await trio.open_unix_socket(str(path)) as stream:
            await stream.send_all(json.dumps({"command": command}).encode() + b"\n")
            answer = b""
            while part := await stream.receive_some():
                answer += part
        found: dict[str, Any] = json.loads(answer)
        return found

    async def ready(self, other_than: int | None) -> int:
        """Wait until a kanidmd (another one than that) serves; return its pid. Raises AssertionError with the log's end."""
        with trio.move_on_after(START_SECONDS):
            while self.process.poll() is None:
                with suppress(OSError, ValueError):
                    upstream = (await self.ask("status"))["upstream"]
                    if upstream["state"] == "ready" and upstream["pid"] not in (None, other_than):
                        return int(upstream["pid"])
                await trio.sleep(0.02)
        raise AssertionError(f"no kanidmd serves; exit code {self.process.poll()}\n{self.stderr()[-6000:]}")

    def stderr(self) -> str:
        """Return what was written to standard error so far."""
        return (self.directory / "stderr.log").read_text(errors="replace")

    def set(self, text: str) -> None:
        """Replace config.toml in one step."""
        scratch = self.places.config.with_suffix(".new")
        scratch.write_text(text)
        scratch.replace(self.places.config)

    def descriptors(self) -> dict[str, int]:
        """Return what Kiwi ID's open descriptors are, by kind, with how many there are of each."""
        found: dict[str, int] = {}
        for entry in Path(f"/proc/{self.process.pid}/fd").iterdir():
            with suppress(OSError):
                kind = re.sub(r"\[\d+\]|\(deleted\)", "", str(entry.readlink()))
                found[kind] = found.get(kind, 0) + 1
        return found

    def memory(self) -> int:
        """Return Kiwi ID's resident memory in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024

    def processes(self) -> list[int]:
        """Return every process that has this instance's directory in its command line."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with suppress(OSError):
                    if str(self.directory).encode() in (entry / "cmdline").read_bytes():
                        found.append(int(entry.name))
        return found

    def children(self) -> int:
        """Return how many children Kiwi ID has, zombies included."""
        files = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        return sum(len(file.read_text().split()) for file in files)

    def arrivals(self) -> list[str]:
        """Return what changed something and arrived at the stand-in, in order; nothing for a real kanidmd."""
        file = self.directory / "bin" / counted.ARRIVALS
        return file.read_text().splitlines() if file.exists() else []

    def stop(self) -> tuple[int | None, list[int]]:
        """Stop it; return its exit code (None: it had to be killed) and the processes that are left."""
        code: int | None = None
        if self.process.poll() is None:
            self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            code = self.process.wait(STOP_SECONDS)
        return code, self.processes()


@contextmanager
def log_disk(directory: Path) -> Iterator[bool]:
    """Mount a small disk there, where we may; say whether that was possible."""
    options = ["mount", "-t", "tmpfs", "-o", f"size={LOG_DISK},mode=0750", "none", str(directory)]
    mounted = os.geteuid() == 0 and subprocess.run(options, check=False, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(directory)], check=False)  # noqa: S607 - as mount above


@contextmanager
def running(kanidmd: Path | None) -> Iterator[World]:
    """Run a Kiwi ID over that kanidmd (None: the counted stand-in); kill and remove whatever is left of it at the end."""
    directory = Path(tempfile.mkdtemp(prefix="kiwi-soak-"))
    try:
        with _made(directory, kanidmd) as world:
            try:
                yield world
            finally:
                world.process.kill()
                world.process.wait()
                for pid in world.processes():
                    with suppress(ProcessLookupError):
                        os.kill(pid, 9)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _made(directory: Path, kanidmd: Path | None) -> Iterator[World]:
    # Within the directory, so that its processes can be told from others by their command line.
    binary = directory / "bin" / "kanidmd"
    binary.parent.mkdir()
    if kanidmd is None:
        counted.install(binary)
    else:
        shutil.copy2(kanidmd, binary)
    port, upstream_port = free_port(), free_port()
    options = layout.Options(
        listen=Address("127.0.0.1", port),
        upstream=Address("127.0.0.1", upstream_port),
        upstream_bin=binary,
        key_type="eddsa",
        listener_tls=False,
    )
    layout.create(directory / "i", options)
    places = layout.Places.under(directory / "i")
    text = places.config.read_text()
    for name, value in SETTINGS.items():
        text, count = re.subn(rf"^(# )?{name} = .*$", f"{name} = {json.dumps(value)}", text, count=1, flags=re.MULTILINE)
        assert count, name
    places.config.write_text(f"{text}\n{LIMITS}")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("KIWI_", "KANIDM_", "NOTIFY_"))}
    with log_disk(places.log_file.parent) as mounted, (directory / "stderr.log").open("ab") as output:
        command = [sys.executable, "-m", "kiwi_id", "run", "--config", str(places.config)]
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environ)
        server = server_toml.load(places.upstream_config)
        yield World(directory, places, port, upstream_port, process, places.log_file, mounted, server)
