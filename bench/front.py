"""Front against direct and against a plain Hypercorn + Quart-Trio + httpx pass-through, in one run; prints a table and ratios.

    python -m bench.front [--tls] [--rounds 3] [--seconds 4] [--connections 16] [--json FILE]

Every contender gets the same upstream process, the same load process and its turn in each round; figures are medians over the
rounds. CPU is the user and system time of the front's process alone, from /proc/PID/stat.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.instance import ROOT, bench_upstream, make
from bench.processes import cpu_seconds, rss_mb, wait_port
from kiwi_id.instance.certs import make_loopback
from kiwi_id.instance.ports import free_port


@dataclass
class Contender:
    """One way to the upstream: where it listens, and the process whose CPU and memory count."""

    name: str
    port: int
    pid: int
    tls: bool


@contextlib.contextmanager
def contenders(directory: Path, tls: bool) -> Iterator[list[Contender]]:
    """Start Kiwi ID (with the bench upstream as its child) and the plain stack beside it; stop them at the end."""
    instance = make(directory, bench_upstream(directory))
    config, front, upstream, plain = instance.places.config, instance.front, instance.upstream, free_port()
    cert, key = directory / "front-chain.pem", directory / "front-key.pem"
    make_loopback(cert, key)
    if tls:
        config.write_text(f'tls_cert = "{cert}"\ntls_key = "{key}"\n' + config.read_text())
    chain = instance.places.chain
    python = [sys.executable, "-m"]
    log = (directory / "kiwi.log").open("wb")
    kiwi = subprocess.Popen(instance.run, cwd=ROOT, stderr=log)
    command = [*python, "bench.peers.plain", f"127.0.0.1:{plain}", f"https://127.0.0.1:{upstream}", str(chain)]
    other = subprocess.Popen([*command, *([str(cert), str(key)] if tls else [])], cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        for port in (upstream, front, plain):
            wait_port(port)
        time.sleep(1)
        upstream_pid = json.loads(
            subprocess.check_output([*python, "kiwi_id", "status", "--json", "--config", str(config)], cwd=ROOT)
        )["upstream"]["pid"]
        yield [
            Contender("direct", upstream, upstream_pid, tls=True),
            Contender("Kiwi ID", front, kiwi.pid, tls),
            Contender("plain stack", plain, other.pid, tls),
        ]
    finally:
        for process in (other, kiwi):
            process.terminate()
        for process in (other, kiwi):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
        log.close()


def measure(contender: Contender, connections: int, seconds: float) -> dict[str, float]:
    """Load one contender once; return its figures."""
    command = [sys.executable, "-m", "bench.load", "127.0.0.1", str(contender.port)]
    command += ["--connections", str(connections), "--seconds", str(seconds), *(["--tls"] if contender.tls else [])]
    before = cpu_seconds(contender.pid)
    result: dict[str, Any] = json.loads(subprocess.check_output(command, cwd=ROOT))
    used = cpu_seconds(contender.pid) - before
    if result["errors"]:
        raise SystemExit(f"bench: {contender.name}: {result['errors']} errors, first: {result['first_error']}")
    # The warm-up's requests cost CPU, too, but are not counted: scale by the time that was.
    measured = result["seconds"] / (result["seconds"] + min(1.0, seconds / 4))
    return {
        "rps": result["requests"] / result["seconds"],
        "cpu_us": used * measured / result["requests"] * 1e6,
        "p50_us": result["p50_us"],
        "p99_us": result["p99_us"],
        "rss_mb": rss_mb(contender.pid),
    }


def main() -> None:
    """Run all contenders in turn and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--tls", action="store_true", help="TLS towards the client as well")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    rounds: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="kiwi-bench-") as directory, contenders(Path(directory), args.tls) as all_of_them:
        for _ in range(args.rounds):
            for contender in all_of_them:
                rounds.setdefault(contender.name, []).append(measure(contender, args.connections, args.seconds))
    table = {name: {key: statistics.median(one[key] for one in results) for key in results[0]} for name, results in rounds.items()}
    side = "TLS" if args.tls else "HTTP"
    print(
        f"GET of 1.1 KB JSON, {args.connections} keep-alive connections, client side {side}, upstream TLS, median of {args.rounds}"
    )
    print(f"{'':14}{'req/s':>8}{'CPU µs/req':>12}{'p50 µs':>9}{'p99 µs':>9}{'RSS MB':>8}")
    for name, row in table.items():
        figures = f"{row['rps']:8.0f}{row['cpu_us']:12.0f}{row['p50_us']:9.0f}{row['p99_us']:9.0f}{row['rss_mb']:8.1f}"
        print(f"{name:14}{figures}")
    kiwi, plain, direct = table["Kiwi ID"], table["plain stack"], table["direct"]
    print(f"CPU per request, Kiwi ID / plain stack: {kiwi['cpu_us'] / plain['cpu_us']:.3f}")
    print(f"req/s, Kiwi ID / plain stack: {kiwi['rps'] / plain['rps']:.2f}; Kiwi ID / direct: {kiwi['rps'] / direct['rps']:.2f}")
    if args.json:
        Path(args.json).write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
