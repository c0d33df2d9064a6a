"""How long the requests of a login take beside slow clients, against the same without them; in one run.

    python -m bench.hostile [--slow 1000] [--rounds 3] [--kinds …] [--upstream-bin PATH] [--json FILE]

Whole logins (password typed, to userinfo) through a Kiwi ID with its default limits, over the real kanidmd when there is one, else
over the stand-in. Turns without and with slow clients alternate; the slow ones are of all kinds (``bench.slow_clients``), in a
process of their own, from ten addresses. p99 is over all requests of all logins of a turn but those that carry the password:
hashing it takes kanidmd so long that nothing else would be seen. The figures are medians over the rounds.
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
from dataclasses import asdict
from pathlib import Path
from typing import Any

import trio

from bench.login_load import Job
from bench.logins import Running, find_kanidmd, make_people, running
from bench.processes import ROOT, cpu_seconds, rss_mb
from bench.slow_clients import KINDS
from kiwi_id.instance.layout import Places

WANTED = 3.0
LOGINS, PEOPLE = 256, 4


@contextlib.contextmanager
def slow_clients(port: int, count: int, *options: str) -> Iterator[dict[str, Any]]:
    """Keep slow clients beside this block; yields what the process said when all had been opened, and adds ``end`` after it."""
    command = [sys.executable, "-m", "bench.slow_clients", str(port), str(count), *options]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            said = json.loads(process.stdout.readline())
            yield said
            process.stdin.close()
            said["end"] = json.loads(process.stdout.readline())
            process.wait(20)
        finally:
            process.kill()


def log_in(it: Running, logins: int, people: int = PEOPLE) -> dict[str, Any]:
    """Do so many logins by people who were never there before; return what the load process measured."""
    made = trio.run(make_people, it.server, it.upstream, people, None)
    job = Job(**it.job, live=False, people=made, logins=max(1, logins // people))
    load = [sys.executable, "-m", "bench.login_load"]
    done = subprocess.run(load, cwd=ROOT, input=json.dumps(asdict(job)).encode(), stdout=subprocess.PIPE, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def status(directory: Path) -> dict[str, Any]:
    """Ask the Kiwi ID that ``bench.logins.running`` has started below ``directory`` for its status."""
    path = Places.under(directory / "instance").config
    command = [sys.executable, "-m", "kiwi_id", "status", "--json", "--config", str(path)]
    found: dict[str, Any] = json.loads(subprocess.check_output(command, cwd=ROOT))
    return found


def turn(it: Running, directory: Path, slow: int, options: list[str]) -> dict[str, float]:
    """One turn; return its figures."""
    with contextlib.ExitStack() as beside:
        if slow:
            beside.enter_context(slow_clients(it.job["port"], slow, *options))
            time.sleep(2)  # until the first have been slow for a while
        connected = status(directory)["connections"]
        cpu, began = cpu_seconds(it.kiwi), time.monotonic()
        result = log_in(it, LOGINS)
        share = (cpu_seconds(it.kiwi) - cpu) / (time.monotonic() - began)
        times = sorted(each for name, found in result["times"].items() if name != "password" for each in found)
        return {
            "connected": connected,
            "p50_ms": statistics.median(times) / 1000,
            "p99_ms": times[int(len(times) * 0.99)] / 1000,
            "logins_per_s": result["logins"] / result["seconds"],
            "cpu": share,
            "rss_mb": rss_mb(it.kiwi),
        }


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slow", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--path", default="/", help="what those who do not read ask for; best something large")
    parser.add_argument("--upstream-bin", help="kanidmd (default: KIWI_TEST_KANIDMD, /opt/upstream/bin/kanidmd, else the stand-in)")
    parser.add_argument("--json", metavar="FILE", type=Path)
    args = parser.parse_args()
    turns: dict[int, list[dict[str, float]]] = {0: [], args.slow: []}
    with tempfile.TemporaryDirectory(prefix="kiwi-bench-") as name:
        kanidmd, version = find_kanidmd(args.upstream_bin, Path(name))
        common = argparse.Namespace(key="es256", plain=True, python="")
        with running(Path(name), kanidmd, common) as it:
            log_in(it, PEOPLE)  # warm
            for number in range(args.rounds):
                for slow in sorted(turns, reverse=bool(number % 2)):
                    turns[slow].append(turn(it, Path(name), slow, ["--path", args.path, "--kinds", *args.kinds]))
            refused = status(Path(name))["refused"]
    medians = {slow: {key: statistics.median(each[key] for each in found) for key in found[0]} for slow, found in turns.items()}
    print(f"\nkanidmd {version}, {LOGINS} logins a turn by {PEOPLE} people, medians of {args.rounds} rounds\n")
    row = "{:>12} {:>11} {:>7} {:>7} {:>10} {:>16} {:>9}"
    print(row.format("slow clients", "connected", "p50 ms", "p99 ms", "logins/s", "CPU of kiwi-id", "RSS MB"))
    for slow, found in medians.items():
        speed = [f"{found[key]:.1f}" for key in ("p50_ms", "p99_ms", "logins_per_s")]
        print(row.format(slow, f"{found['connected']:.0f}", *speed, f"{found['cpu']:.0%}", f"{found['rss_mb']:.1f}"))
    ratio = medians[args.slow]["p99_ms"] / medians[0]["p99_ms"]
    print(f"\np99 with over without: {ratio:.2f} (wanted: at most {WANTED:g}) {'ok' if ratio <= WANTED else 'MISSED'}")
    print(f"refused meanwhile: {refused}")
    if args.json:
        args.json.write_text(json.dumps({"kanidmd": version, "turns": turns, "ratio": ratio, "refused": refused}, indent=1) + "\n")


if __name__ == "__main__":
    main()
