"""All contenders in turn, in one run: what a proxied request costs, what bodies, connections and handshakes do; with ratios.

    python -m bench.report [--quick] [--only PART,…] [--rounds N] [--out DIR]

Writes ``report.md`` and ``report.png`` to ``--out`` (by default this directory; with ``--quick`` or ``--only`` nowhere) and prints
what was wanted and found. Contenders: Kiwi ID, the peers in ``bench/peers``, and the upstream itself. Load comes from wrk when it
is installed, else, and wherever connections are counted or requests paced, from ``bench/load.py``. Everything runs on this machine
on the loopback, in processes of its own, and ends with the program. The whole takes a quarter of an hour, ``--quick`` two minutes.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import re
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from bench import report_measures as measures
from bench.peers import nginx
from bench.processes import ROOT, raise_descriptors
from bench.report_aims import Results, aims
from bench.report_contenders import KIWI, NGINX, Kiwi, Room, missing
from bench.report_measures import Scale
from bench.report_page import page, plot

FULL = Scale(
    rounds=3,
    seconds=4,
    connections=16,
    levels=(1, 16, 128, 1000, 2500, 5000),
    handshakes=500,
    starts=5,
    body_bytes=30 << 20,
    idle_seconds=10,
)
QUICK = replace(FULL, rounds=1, seconds=1.5, levels=(1, 16, 500), handshakes=50, starts=1, idle_seconds=3)
TINY = replace(QUICK, seconds=0.2, connections=4, levels=(1, 8), handshakes=3, body_bytes=1 << 20, idle_seconds=0.2)
PARTS = ("speed", "bodies", "memory", "tls", "own", "imports", "sweep")
# Descriptors besides those of connections: the pool, the listener, files.
_SPARE = 600


def machine() -> list[tuple[str, str]]:
    """Return what the figures depend on: processor, kernel, versions."""
    cpu = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S607
    packages = []
    for name in ("trio", "h11", "hypercorn", "quart-trio", "httpx", "aiohttp", "PyJWT", "cryptography"):
        try:
            packages.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    programs = []
    if (binary := nginx.find()) is not None:
        told = subprocess.run([binary, "-v"], capture_output=True, text=True, check=False).stderr
        programs.append(told.strip().removeprefix("nginx version: "))
    load = "bench/load.py"
    if wrk := shutil.which("wrk"):
        told = subprocess.run([wrk, "-v"], capture_output=True, text=True, check=False).stdout
        load = f"{' '.join(told.split()[:2])} at full load, bench/load.py elsewhere"
    return [
        ("When", f"{datetime.now(UTC):%Y-%m-%d}, Kiwi ID at {commit.stdout.strip() or 'an unknown commit'}"),
        ("Machine", f"{cpu[1] if cpu else platform.machine()}, {os.cpu_count()} cores, Linux {platform.release().split('-')[0]}"),
        ("Load average before", " ".join(f"{one:.2f}" for one in os.getloadavg())),
        ("Python", f"{platform.python_version()}, {ssl.OPENSSL_VERSION}"),
        ("Packages", ", ".join(packages)),
        ("Programs", ", ".join(programs) or "none"),
        ("Load from", load),
    ]


def run(scale: Scale, parts: set[str], say: Callable[[str], None]) -> Results:
    """Measure; whatever was started has ended when this returns or raises."""
    results = Results(scale, machine(), missing())
    with tempfile.TemporaryDirectory(prefix="kiwi-bench-") as name:
        room = Room(Path(name))
        if "imports" in parts:
            say("imports")
            results.imports = measures.imports(room, scale)
        if "memory" in parts:
            say("memory")
            results.memory = measures.memory(room, scale)
        if not parts & {"speed", "bodies", "tls", "own", "sweep"}:
            return results
        with room.all(without=tuple(results.missing)) as contenders, room.kiwi(tls=False) as http:
            kiwi = contenders[0]
            assert isinstance(kiwi, Kiwi)
            everyone = [kiwi, http, *contenders[1:]]
            if "own" in parts:
                say("own answers")
                results.own_answers, results.left_out = measures.own_answers(kiwi, scale)
            if "speed" in parts:
                say("requests per second")
                results.throughput = measures.throughput(everyone, scale)
                say("half load")
                results.half_load = measures.half_load(everyone, results.throughput, scale)
            if "bodies" in parts:
                say("bodies")
                results.bodies = measures.bodies(everyone, scale)
            if "tls" in parts:
                say("handshakes")
                results.resumption = measures.resumption([one for one in contenders if one.name in (KIWI, NGINX)], scale)
            if "sweep" in parts:
                say("by number of connections")
                results.sweep = measures.sweep(everyone, scale)
    return results


def _scale(args: argparse.Namespace) -> Scale:
    scale = {"full": FULL, "quick": QUICK, "tiny": TINY}[args.scale]
    if args.rounds:
        scale = replace(scale, rounds=args.rounds)
    most = raise_descriptors() - _SPARE
    if scale.most > most // 2:  # a peer that opens one upstream connection for each client's
        levels = tuple(level for level in scale.levels if level <= most // 2)
        print(f"bench: the limit on open files allows {levels[-1]} connections only (ulimit -Hn)", file=sys.stderr)
        scale = replace(scale, levels=levels)
    return scale


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    scales = parser.add_mutually_exclusive_group()
    scales.add_argument("--quick", action="store_const", const="quick", dest="scale", help="shorter and with fewer connections")
    scales.add_argument("--tiny", action="store_const", const="tiny", dest="scale", help="only to see that everything works")
    parser.add_argument("--only", default=",".join(PARTS), help=f"some of {', '.join(PARTS)}")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--out", type=Path, help="directory for report.md and report.png")
    parser.set_defaults(scale="full")
    args = parser.parse_args()
    parts = set(args.only.split(","))
    if unknown := parts - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything that was started is ended
    began = time.monotonic()

    def say(what: str) -> None:
        print(f"[{time.monotonic() - began:5.0f} s] {what}", file=sys.stderr, flush=True)

    results = run(_scale(args), parts, say)
    text = page(results)
    out = args.out or (ROOT / "bench" if args.scale == "full" and parts == set(PARTS) else None)
    if out is None:
        print(text)
    else:
        if results.sweep and (why := plot(results, out / "report.png")):
            text = text.replace("![CPU per request and memory by number of connections](report.png)", f"No plot: {why}.")
        (out / "report.md").write_text(text, encoding="utf-8")
        for aim in aims(results):
            print("  ".join(cell.replace("*", "") for cell in aim.row()))
    say("done")


if __name__ == "__main__":
    main()
