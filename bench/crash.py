"""kanidmd killed by -9: how long clients stand still, and how many requests fail, beside nginx and a shell loop; in one run.

    python -m bench.crash [--upstream-bin PATH] [--rounds 7] [--seconds 20] [--every 5] [--rate 200]

First kanidmd alone is started, to the first answer that a client polling every 2 ms gets, after a stop and after a kill, from which
its database has to recover. Then it is killed under each front, and a client asks in the same moment: the *stall* is the time to
its answer (nginx: to the first that is no error, asked every 2 ms), held against a start after a stop, which is the harder measure.
Then requests come at random times, ``--rate`` a second, while kanidmd is killed every ``--every`` seconds: what is not answered
with 200 has failed. The shell loop starts kanidmd again at once, whenever it ends. The full run is ``--seconds 120``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bench.instance import Instance, find_kanidmd, make
from bench.peers import nginx
from bench.processes import running
from bench.start import one_start, until_200
from kiwi_id import control
from kiwi_id.instance.ports import free_port

WANTED_RATIO = 1.2
PATH = "/status"
_REQUEST = f"GET {PATH} HTTP/1.1\r\nHost: id.example.com\r\nAccept: application/json\r\n\r\n".encode()
_PATIENCE = 30.0
# Kiwi ID lets a kanidmd wait that has ended within a second of its start twice in a row.
_SETTLE = 1.2


class Failed(Exception):
    """No answer, or another than 200."""


@dataclass
class Front:
    """A front to be measured: its port, and how to find the kanidmd behind it."""

    name: str
    port: int
    kanidmd: Callable[[], int]

    def kill(self) -> None:
        """Kill kanidmd."""
        os.kill(self.kanidmd(), signal.SIGKILL)


@dataclass
class Client:
    """Keep-alive connections, taken as they are free; a failed request ends its own."""

    port: int
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = field(default_factory=list)

    async def ask(self) -> None:
        """Ask once. Raises Failed."""
        try:
            async with asyncio.timeout(_PATIENCE):
                pair = self.idle.pop() if self.idle else await asyncio.open_connection("127.0.0.1", self.port)
                await self._exchange(*pair)
        except (OSError, EOFError, TimeoutError, ValueError) as error:
            raise Failed(type(error).__name__) from None
        self.idle.append(pair)

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(_REQUEST)
        head = await reader.readuntil(b"\r\n\r\n")
        length = head.lower().partition(b"\r\ncontent-length:")[2].split(b"\r\n", 1)[0]
        await reader.readexactly(int(length))
        if not head.startswith(b"HTTP/1.1 200"):
            writer.close()
            raise Failed(head[:12].decode("latin-1"))

    def close(self) -> None:
        """Close all connections."""
        for _, writer in self.idle:
            writer.close()


async def stall(front: Front) -> float:
    """Kill kanidmd, ask at once, and return the seconds until there is an answer."""
    client = Client(front.port)
    await client.ask()
    front.kill()
    began = time.perf_counter()
    while True:
        with contextlib.suppress(Failed):
            await client.ask()
            break
        await asyncio.sleep(0.002)
    took = time.perf_counter() - began
    client.close()
    return took


async def under_load(front: Front, seconds: float, every: float, rate: float) -> tuple[Counter[str], list[float], int]:
    """Ask at random times while kanidmd is killed now and then; return outcomes, times of answers and the number of kills."""
    client, outcomes, times = Client(front.port), Counter[str](), list[float]()
    arrivals, kills = random.Random(1), 0  # noqa: S311 - the same times for each front

    async def one() -> None:
        began = time.perf_counter()
        try:
            await client.ask()
        except Failed as error:
            outcomes[str(error)] += 1
        else:
            outcomes["ok"] += 1
            times.append(time.perf_counter() - began)

    due = began = time.perf_counter()
    next_kill = began + every / 2
    async with asyncio.TaskGroup() as group:
        while due < began + seconds:
            if due >= next_kill:
                front.kill()
                kills, next_kill = kills + 1, next_kill + every
            group.create_task(one())
            due += arrivals.expovariate(rate)
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
    client.close()
    return outcomes, times, kills


@contextlib.contextmanager
def kiwi(instance: Instance, log: Path) -> Iterator[Front]:
    """Run Kiwi ID over kanidmd."""
    with running(instance.run, log) as process:
        until_200(process, instance.front, "/readyz", tls=False)

        def pid() -> int:
            return int(control.call(instance.places.runtime_dir / "control.sock", "status", timeout=5)["upstream"]["pid"])

        yield Front("Kiwi ID", instance.front, pid)


@contextlib.contextmanager
def loop(instance: Instance, directory: Path) -> Iterator[Front]:
    """Run nginx before a kanidmd that a shell loop starts again whenever it ends."""
    pid_file, port = directory / "kanidmd.pid", free_port()
    script = f'while :; do "$@" & echo $! > {pid_file}; wait $!; done'
    server = [str(instance.binary), "server", "-c", str(instance.places.upstream_config)]
    proxy = [sys.executable, "-m", "bench.peers.nginx", f"127.0.0.1:{port}", f"https://127.0.0.1:{instance.upstream}"]
    shell = subprocess.Popen(["/bin/sh", "-c", script, "sh", *server], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until_200(shell, instance.upstream, PATH, tls=True)
        with running([*proxy, str(instance.places.chain)], directory / "nginx.log") as process:
            until_200(process, port, PATH, tls=False)
            yield Front("nginx and a shell loop", port, lambda: int(pid_file.read_text()))
    finally:
        shell.kill()
        shell.wait()
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid_file.read_text()), signal.SIGKILL)


def measure(front: Front, args: argparse.Namespace, start: float) -> None:
    """Measure one front and print what came out."""
    stalls = []
    for _ in range(args.rounds):
        time.sleep(_SETTLE)
        stalls.append(asyncio.run(stall(front)))
    time.sleep(_SETTLE)
    outcomes, times, kills = asyncio.run(under_load(front, args.seconds, args.every, args.rate))
    failed = outcomes.total() - outcomes["ok"]
    middle, times = statistics.median(stalls), sorted(times)
    print(f"{front.name}")
    print(f"  stall after kill -9   {middle * 1000:7.0f} ms   ratio to kanidmd's start {middle / start:5.2f}")
    print(f"  {outcomes.total()} requests, {kills} kills: {failed} failed {dict(outcomes - Counter(ok=outcomes['ok']))}")
    print(f"  answers: median {times[len(times) // 2] * 1000:.1f} ms, slowest {times[-1] * 1000:.0f} ms")


def main() -> None:
    """Run everything in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--upstream-bin")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--every", type=float, default=5.0)
    parser.add_argument("--rate", type=float, default=200.0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kiwi-bench-") as name:
        directory = Path(name)
        instance = make(directory, find_kanidmd(args.upstream_bin, directory))
        server = [str(instance.binary), "server", "-c", str(instance.places.upstream_config)]
        log = directory / "log"
        one_start(server, instance.upstream, PATH, tls=True, log=log)  # makes the database
        start, killed = (
            statistics.median(one_start(server, instance.upstream, PATH, tls=True, log=log, end=end) for _ in range(args.rounds))
            for end in (signal.SIGTERM, signal.SIGKILL)
        )
        program = instance.binary.name
        print(f"{program} alone, start to ready: {start * 1000:.0f} ms after a stop, {killed * 1000:.0f} ms after a kill -9")
        print(f"wanted: ratio of the stall at most {WANTED_RATIO}, and no request failed")
        with kiwi(instance, directory / "kiwi.log") as front:
            measure(front, args, start)
        if nginx.find() is None:
            print("no nginx on this machine (apt-get install nginx-core): nothing to compare with")
            return
        with loop(instance, directory) as front:
            measure(front, args, start)


if __name__ == "__main__":
    main()
