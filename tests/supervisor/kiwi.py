"""A Kiwi ID over a scripted kanidmd, as real processes in a directory of its own, and what a test asks of them."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from kiwi_id import control
from kiwi_id.instance import layout
from kiwi_id.instance.ports import free_port
from kiwi_id.values import Address

T = TypeVar("T")
# How long a test waits for what must happen. Far more than it takes, because a busy machine is no error; never asserted on.
PATIENCE = 120.0

# Short times, so that a test of what happens after one need not wait for long.
QUICK = {
    "health_check_interval": "200ms",
    "health_check_timeout": "10s",
    "shutdown_timeout": "8s",
    "log_level": "debug",
    "log_format": "json",
    "log_file": "",
}

Behaviour = dict[str, Any]


def eventually(what: Callable[[], T | None], meaning: str) -> T:
    """Call ``what`` until it returns something true, and return that; fail with ``meaning`` when it takes too long."""
    ends = time.monotonic() + PATIENCE
    while not (found := what()):
        if time.monotonic() > ends:
            raise AssertionError(f"still not so after {PATIENCE:g} s: {meaning}")
        time.sleep(0.01)
    return found


def alive(pid: int) -> bool:
    """Tell whether a process is there and no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def catches(pid: int, number: int) -> bool:
    """Tell whether a process has a handler for a signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    return bool(int(status.partition("SigCgt:\t")[2].split()[0], 16) >> (number - 1) & 1)


def install_fake(target: Path) -> None:
    """Write the scripted kanidmd as an executable."""
    script = Path(__file__).with_name("fake_kanidmd.py").read_text()
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(f"#!{sys.executable} -IS\n{script}")
    target.chmod(0o755)


def _create(directory: Path, binary: Path, *, tls: bool, port: int, upstream_port: int) -> None:
    options = layout.Options(
        listen=Address("127.0.0.1", port),
        upstream=Address("127.0.0.1", upstream_port),
        upstream_bin=binary,
        listener_tls=tls,
        key_type="eddsa",
    )
    layout.create(directory, options)


@cache
def _template(*, tls: bool) -> tuple[Path, dict[str, str]]:
    """Make one instance over the scripted kanidmd; return its directory and the texts of its files, by their place in it."""
    with tempfile.TemporaryDirectory(prefix="kiwi-sup-") as name:
        directory = Path(name)
        binary = layout.Places.under(directory).upstream_bin
        install_fake(binary)
        _create(directory, binary, tls=tls, port=1, upstream_port=2)
        files = [path for path in directory.rglob("*") if path.is_file()]
        return directory, {str(path.relative_to(directory)): path.read_text() for path in files}


def _copy_template(directory: Path, *, tls: bool, port: int, upstream_port: int) -> None:
    """Make an instance from the template: making keys and asking a binary for its version takes longer than many a test."""
    origin, files = _template(tls=tls)
    for place in ("var/lib/upstream", "var/log/kiwi", "run/kiwi"):
        (directory / place).mkdir(parents=True, mode=0o750)
    for name, text in files.items():
        file = directory / name
        file.parent.mkdir(parents=True, exist_ok=True)
        moved = text.replace(str(origin), str(directory)).replace('127.0.0.1:1"', f'127.0.0.1:{port}"')
        file.write_text(moved.replace('127.0.0.1:2"', f'127.0.0.1:{upstream_port}"').replace('localhost:1"', f'localhost:{port}"'))
        file.chmod(0o600 if "private" in name or "key" in file.stem else 0o755 if "/bin/" in name else 0o644)


class Kiwi:
    """One instance: its files, and its process once :meth:`start` has been called."""

    def __init__(self, directory: Path, binary: Path | None = None, *, tls: bool = False, **settings: str) -> None:
        """Make the files. ``binary``: another kanidmd than the scripted one; ``settings``: values of config.toml."""
        self.directory = directory
        self.places = layout.Places.under(directory)
        self.config = self.places.config
        self.binary = binary or self.places.upstream_bin
        self.port, self.upstream_port = free_port(), free_port()
        if binary is None:
            _copy_template(self.directory, tls=tls, port=self.port, upstream_port=self.upstream_port)
        else:
            _create(self.directory, binary, tls=tls, port=self.port, upstream_port=self.upstream_port)
        self.set(**(QUICK | settings))
        self.process: subprocess.Popen[bytes]
        self.stderr = directory / "stderr.log"

    def set(self, **settings: str) -> None:
        """Change config.toml: a string, or the TOML of another value when it begins with ``=``."""
        text = self.config.read_text()
        for name, value in settings.items():
            line = f"{name} = {value[1:]}" if value.startswith("=") else f"{name} = {json.dumps(value)}"
            text, found = re.subn(rf"^(# )?{name} = .*$", line.replace("\\", r"\\"), text, count=1, flags=re.MULTILINE)
            assert found, name
        self.config.write_text(text)

    def behave(self, *lives: Behaviour) -> None:
        """Say what the scripted kanidmd does in its first, second, … and each later life."""
        self.places.upstream_config.with_name("behaviour.json").write_text(json.dumps(lives))

    def go(self) -> None:
        """Let a scripted kanidmd listen that was told to be ``held``."""
        self.places.upstream_config.with_name("go").touch()

    def start(
        self, *, environ: Mapping[str, str] | None = None, program: Sequence[str] = (), before: Sequence[str] = (), **options: Any
    ) -> Kiwi:
        """Start it. ``program`` replaces ``-m kiwi_id``; ``before`` is a command that starts Python in its turn."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("KIWI_", "KANIDM_", "NOTIFY_"))}
        command = [*before, sys.executable, *(program or ("-m", "kiwi_id")), "run", "--config", str(self.config)]
        with self.stderr.open("ab") as output:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=clean | dict(environ or {}), **options
            )
        return self

    def start_ready(self, **options: Any) -> Kiwi:
        """Start it and wait until it says that it is ready."""
        self.start(**options)
        self.wait_log("ready", component="supervisor")
        return self

    def signal(self, *numbers: int) -> None:
        """Send signals to Kiwi ID."""
        for number in numbers:
            self.process.send_signal(number)

    def wait(self) -> int:
        """Wait for its end; return the exit code."""
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running; log:\n{self.text()[-6000:]}") from None

    def stop(self) -> int:
        """Send TERM and wait; return the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def clean_up(self) -> None:
        """Kill whatever is left, after any outcome of a test."""
        if hasattr(self, "process") and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for event in self.events():
            if alive(event["pid"]) and str(self.directory).encode() in Path(f"/proc/{event['pid']}/cmdline").read_bytes():
                os.kill(event["pid"], signal.SIGKILL)
        shutil.rmtree(self.directory, ignore_errors=True)

    # -- what it said ------------------------------------------------------------------------------------------------------

    def text(self) -> str:
        """Everything on standard error so far."""
        return self.stderr.read_text(errors="replace") if self.stderr.exists() else ""

    def logs(self, **fields: Any) -> list[dict[str, Any]]:
        """Return the log records with these members, such as ``component="child"``."""
        return [record for record in _json_lines(self.text()) if fields.items() <= record.items()]

    def wait_log(self, msg: str, count: int = 1, **fields: Any) -> dict[str, Any]:
        """Wait for the ``count``-th record of this message and return it; fails at once when the process ends without."""

        def look() -> dict[str, Any] | None:
            ended = self.process.poll() is not None
            found = self.logs(msg=msg, **fields)
            if ended and len(found) < count:
                raise AssertionError(f"ended with {self.process.returncode} before {msg!r}; log:\n{self.text()[-6000:]}")
            return found[count - 1] if len(found) >= count else None

        try:
            return eventually(look, f"log record {msg!r}")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.text()[-6000:]}") from None

    def events(self, event: str = "", **fields: Any) -> list[dict[str, Any]]:
        """Return what the scripted kanidmd recorded."""
        file = self.places.upstream_config.with_name("events.jsonl")
        wanted = {**({"event": event} if event else {}), **fields}
        records = _json_lines(file.read_text()) if file.exists() else []
        return [record for record in records if wanted.items() <= record.items()]

    def wait_event(self, event: str, count: int = 1, **fields: Any) -> dict[str, Any]:
        """Wait for the ``count``-th such event of the scripted kanidmd and return it."""

        def look() -> list[dict[str, Any]]:
            ended = self.process.poll() is not None
            found = self.events(event, **fields)[count - 1 :]
            if ended and not found:
                raise AssertionError(f"ended with {self.process.returncode} before {event}; log:\n{self.text()[-6000:]}")
            return found

        return eventually(look, f"event {event} {fields}")[0]

    def child_signals(self) -> list[str]:
        """Names of the signals that the scripted kanidmd received, in order."""
        return [event["name"] for event in self.events("signal")]

    # -- what one asks it --------------------------------------------------------------------------------------------------

    def ask(self, command: str = "status") -> dict[str, Any]:
        """Ask over the control socket."""
        return control.call(self.places.runtime_dir / "control.sock", command, timeout=PATIENCE)

    def child_pid(self) -> int:
        """The process id of the kanidmd that serves now."""

        def serving() -> int | None:
            upstream: dict[str, Any] = self.ask()["upstream"]
            return upstream["pid"] if upstream["state"] == "ready" else None

        return eventually(serving, "a ready kanidmd")

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run another command of ``kiwi-id`` on this instance."""
        command = [sys.executable, "-m", "kiwi_id", *arguments, "--config", str(self.config)]
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)

    def get(self, path: str = "/x", headers: Mapping[str, str] | None = None) -> tuple[int, str]:
        """GET through the front on a connection of its own (plain HTTP); return status and body."""
        with self.connection() as connection:
            connection.request("GET", path, headers={"Accept": "application/json", **(headers or {})})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    @contextmanager
    def connection(self) -> Iterator[http.client.HTTPConnection]:
        """Open a client connection to the front."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            yield connection
        finally:
            connection.close()


def _json_lines(text: str) -> list[dict[str, Any]]:
    records = []
    for line in text.splitlines(keepends=True):
        if line.startswith("{") and line.endswith("}\n"):
            records.append(json.loads(line))
    return records
