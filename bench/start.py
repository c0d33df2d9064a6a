"""Start: ``kiwi-id run`` to ready beside kanidmd alone to ready, and how long the short commands take; in one run.

    python -m bench.start [--upstream-bin PATH] [--rounds 7]

Uses the real kanidmd (``--upstream-bin``, KIWI_TEST_KANIDMD, /opt/upstream/bin/kanidmd) or else the bench upstream. Both contenders
start on the same database in turn; readiness is the first 200 that a client polling every 2 ms gets (``/status`` of kanidmd,
``/readyz`` of Kiwi ID).
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.instance import KIWI_ID, ROOT, find_kanidmd, make

COMMANDS = ("--version", "health", "status", "check")


def until_200(process: subprocess.Popen[bytes], port: int, path: str, *, tls: bool, seconds: float = 30.0) -> float:
    """Poll until the answer is 200; return when that was (time.perf_counter)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    ends = time.perf_counter() + seconds
    while time.perf_counter() < ends and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as tcp:
            sock = context.wrap_socket(tcp) if tls else tcp
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: id.example.com\r\nConnection: close\r\n\r\n".encode())
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            if sock.recv(64).startswith(b"HTTP/1.1 200"):
                return time.perf_counter()
        time.sleep(0.002)
    raise SystemExit("bench: not ready in time")


def one_start(command: list[str], port: int, path: str, *, tls: bool, log: Path, end: signal.Signals = signal.SIGTERM) -> float:
    """Start, wait for readiness, stop by a signal; return seconds from start to ready."""
    with log.open("ab") as output:
        began = time.perf_counter()
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
        try:
            return until_200(process, port, path, tls=tls) - began
        finally:
            process.send_signal(end)
            process.wait(20)


def main() -> None:
    """Run both in turn and print medians and their difference."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--upstream-bin")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kiwi-bench-") as name:
        directory = Path(name)
        instance = make(directory, find_kanidmd(args.upstream_bin, directory))
        config, server, binary = instance.places.config, instance.places.upstream_config, instance.binary
        front, upstream = instance.front, instance.upstream
        log = directory / "log"
        alone, whole = [], []
        one_start([str(binary), "server", "-c", str(server)], upstream, "/status", tls=True, log=log)  # makes the database
        for _ in range(args.rounds):
            alone.append(one_start([str(binary), "server", "-c", str(server)], upstream, "/status", tls=True, log=log))
            whole.append(one_start(instance.run, front, "/readyz", tls=False, log=log))
        mine, theirs = statistics.median(whole), statistics.median(alone)
        print(f"start to ready, median of {args.rounds}, {binary.name}")
        print(f"  kanidmd alone      {theirs * 1000:7.0f} ms")
        print(f"  kiwi-id run        {mine * 1000:7.0f} ms")
        print(f"  Kiwi ID's share    {(mine - theirs) * 1000:7.0f} ms (Python's start included)   ratio {mine / theirs:.2f}")
        with log.open("ab") as output:
            running = subprocess.Popen(instance.run, cwd=ROOT, stderr=output)
            try:
                until_200(running, front, "/readyz", tls=False)
                python = timed([sys.executable, "-c", "pass"], args.rounds)
                print(f"commands, median of {args.rounds} (python -c pass: {python * 1000:.0f} ms)")
                for word in COMMANDS:
                    command = [*KIWI_ID, word] if word.startswith("-") else [*KIWI_ID, word, "--config", str(config)]
                    print(f"  kiwi-id {word:10} {timed(command, args.rounds) * 1000:7.0f} ms")
            finally:
                running.terminate()
                running.wait(30)


def timed(command: list[str], rounds: int) -> float:
    """Return the median wall time of a command, seconds."""
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


if __name__ == "__main__":
    main()
