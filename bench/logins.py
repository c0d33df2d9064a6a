"""Whole logins per second through Kiwi ID's issuer beside the same straight at Kanidm's native issuer, in one run.

    python -m bench.logins [--upstream-bin PATH] [--rounds 3] [--concurrency 1 4 16] [--key es256] [--argon2 32768,2] [--plain]

One kanidmd serves both: as Kiwi ID's child through the front, and asked directly. The load process is the same, contenders take
turns in each round, figures are medians over the rounds; each turn has people of its own, because kanidmd gets slower with every
session that a person has. Three kinds of login: *password* and *dear* type it each time (login page to userinfo), *live* has a
session (authorize, token, userinfo). CPU is user and system time of a process, from /proc/PID/stat; the load's own counts as well,
because it runs on the same cores.

What a password costs kanidmd is decided when it starts, by a measurement of its own: that is *password*. The target was set for a
machine on which a whole native login takes 60 ms. For *dear*, people get passwords of that price: as much memory as Kanidm takes at
least, and as many passes as make a native login take 60 ms of kanidmd's CPU here; or what ``--argon2 KIB,PASSES`` says
(``bench.imported``).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import trio

from bench.imported import Importer
from bench.instance import ROOT
from bench.login_load import Job
from bench.processes import cpu_seconds
from bench.start import until_200
from kiwi_id import demo, devserver
from kiwi_id.instance.keys import KINDS
from kiwi_id.instance.layout import Options, Places, create
from kiwi_id.instance.ports import free_port
from kiwi_id.kanidm import server_toml
from kiwi_id.kanidm.admin import recover_account
from kiwi_id.kanidm.pin import client_context
from kiwi_id.kanidm.rest import Kanidm
from kiwi_id.values import Address

# With a password as cheap as Kanidm makes it here there is no figure to reach.
WANTED = {"password": 0.0, "dear": 0.95, "live": 0.5}
# Logins in one turn, over all connections.
LOGINS = {"password": 128, "dear": 64, "live": 480}
# CPU of kanidmd for a native login with the password typed, on the machine that the target was written for, ms; and Kanidm's least
# memory for a hash, KiB (libs/crypto/src/lib.rs, ARGON2_MIN_RAM_KIB).
DEAR_MS = 60.0
LEAST_KIB = 8192
PASSWORD = "orchard-lantern-voyage-73"  # noqa: S105 - of people that live as long as this program


def find_kanidmd(option: str | None, directory: Path) -> tuple[Path, str]:
    """Return the kanidmd to use and its version; the stand-in when there is no real one."""
    for candidate in (option, os.environ.get("KIWI_TEST_KANIDMD"), "/opt/upstream/bin/kanidmd"):
        if candidate and Path(candidate).exists():
            path = Path(candidate).absolute()
            break
    else:
        path = directory / "kanidmd"
        devserver.install(path)
        print("The stand-in answers for kanidmd: these figures mean nothing, but the program runs.")
    return path, subprocess.check_output([path, "version"], text=True, stderr=subprocess.DEVNULL).split()[1]


@dataclass(frozen=True)
class Running:
    """A running Kiwi ID: ``job`` as far as it is always the same, the port of its kanidmd, and both process ids."""

    job: dict[str, Any]
    server: server_toml.ServerToml
    upstream: int
    kiwi: int
    kanidmd: int


@contextlib.contextmanager
def running(directory: Path, kanidmd: Path, args: argparse.Namespace) -> Iterator[Running]:
    """Run Kiwi ID over kanidmd, with the demo's data."""
    front, upstream = free_port(), free_port()
    options = Options(
        listen=Address("127.0.0.1", front),
        upstream=Address("127.0.0.1", upstream),
        upstream_bin=kanidmd,
        key_type=args.key,
        listener_tls=not args.plain,
    )
    create(directory / "instance", options)
    places = Places.under(directory / "instance")
    kiwi = [sys.executable, *args.python.split(), "-m", "kiwi_id"]
    with (directory / "kiwi.log").open("wb") as log:
        process = subprocess.Popen([*kiwi, "run", "--config", str(places.config)], cwd=ROOT, stdout=log, stderr=log)
    try:
        until_200(process, front, "/readyz", tls=not args.plain)
        server = server_toml.load(places.upstream_config)
        made = trio.run(demo.provision, server, f"https://127.0.0.1:{upstream}")
        status = [sys.executable, "-m", "kiwi_id", "status", "--json", "--config", str(places.config)]
        pid: int = json.loads(subprocess.check_output(status, cwd=ROOT))["upstream"]["pid"]
        shared = {"client_id": "kiwi-demo", "secret": made.clients[0].secret, "redirect_uri": demo.REDIRECT_URI}
        yield Running({**shared, "port": front, "tls": not args.plain, "kiwi": True}, server, upstream, process.pid, pid)
    finally:
        process.terminate()
        process.wait(40)


async def make_people(
    server: server_toml.ServerToml, upstream: int, number: int, argon2: tuple[int, int] | None
) -> list[list[str]]:
    """Make people who have never logged in; return their names and passwords."""
    password = await recover_account(server.admin_socket, "idm_admin")
    names = [f"person{secrets.token_hex(6)}" for _ in range(number)]
    url, context = f"https://127.0.0.1:{upstream}", client_context(server.tls_chain)
    if argon2 is not None:
        async with Kanidm(url, context) as kanidm:
            await kanidm.login("admin", await recover_account(server.admin_socket, "admin"))
            importer = await Importer.make(url, context, kanidm)
        await importer.people(names, PASSWORD, *argon2)
    async with Kanidm(url, context) as kanidm:
        await kanidm.login("idm_admin", password)
        for name in names if argon2 is None else ():
            await kanidm.create_person(name, "Person", mail=[f"{name}@example.com"])
            await kanidm.set_password(name, PASSWORD)
        await kanidm.add_members("kiwi_users", *names)
    return [[name, PASSWORD] for name in names]


def measure(
    it: Running, kind: str, concurrency: int, argon2: tuple[int, int] | None, *, native: bool, logins: int = 0
) -> dict[str, Any]:
    """Run one turn in the load process; return its figures, with the CPU milliseconds that each process spent on a login."""
    people = trio.run(make_people, it.server, it.upstream, concurrency, argon2)
    common = {**it.job, "port": it.upstream, "tls": True, "kiwi": False} if native else it.job
    job = Job(**common, live=kind == "live", people=people, logins=max(1, (logins or LOGINS[kind]) // concurrency))
    before = cpu_seconds(it.kiwi), cpu_seconds(it.kanidmd)
    load = [sys.executable, "-m", "bench.login_load"]
    output = subprocess.run(load, cwd=ROOT, input=json.dumps(asdict(job)).encode(), stdout=subprocess.PIPE, check=True)
    result: dict[str, Any] = json.loads(output.stdout)
    # What comes before the measured time (one or two logins for each person) is counted in; it is small beside the rest.
    logins = result["logins"] + concurrency * (2 if job.live else 1)
    return {
        "load_ms": result["cpu_seconds"] / result["logins"] * 1000,
        "per_second": result["logins"] / result["seconds"],
        "kiwi_ms": (cpu_seconds(it.kiwi) - before[0]) / logins * 1000,
        "kanidmd_ms": (cpu_seconds(it.kanidmd) - before[1]) / logins * 1000,
        **{f"step {name}": value for name, value in result["steps"].items()},
    }


def price(it: Running) -> tuple[int, int]:
    """Return memory and passes of a hash with which a native login takes ``DEAR_MS`` of kanidmd's CPU here."""
    few, many = 4, 12
    cheap, dear = (measure(it, "dear", 1, (LEAST_KIB, passes), native=True, logins=24)["kanidmd_ms"] for passes in (few, many))
    return LEAST_KIB, max(1, round(few + (DEAR_MS - cheap) / (dear - cheap) * (many - few)))


def _price(text: str) -> tuple[int, int]:
    memory, passes = (int(part) for part in text.split(","))
    return memory, passes


def cpu(row: dict[str, float]) -> float:
    """Return the CPU milliseconds of all three processes for a login."""
    return row["kiwi_ms"] + row["kanidmd_ms"] + row["load_ms"]


def typical(row: dict[str, float]) -> float:
    """Return the milliseconds of a login whose steps all take their median time."""
    return sum(value for name, value in row.items() if name.startswith("step ")) / 1000


def show(title: str, native: dict[str, float], kiwi: dict[str, float]) -> None:
    """Print one comparison."""
    print(f"\n{title}")
    print(f"  {'':16}{'logins/s':>9}{'CPU ms/login: Kiwi ID':>23}{'kanidmd':>9}{'load':>7}{'all':>8}")
    for name, row in (("native", native), ("Kiwi ID", kiwi)):
        spent = f"{row['kiwi_ms']:23.2f}{row['kanidmd_ms']:9.2f}{row['load_ms']:7.2f}{cpu(row):8.2f}"
        print(f"  {name:16}{row['per_second']:9.1f}{spent}")
    print("  step, median ms " + "".join(f"{key[5:]:>12}" for key in kiwi if key.startswith("step ")) + f"{'sum':>12}")
    for name, row in (("native", native), ("Kiwi ID", kiwi)):
        cells = (f"{row[key] / 1000:12.2f}" if key in row else f"{'-':>12}" for key in kiwi if key.startswith("step "))
        print(f"  {name:16}" + "".join(cells) + f"{typical(row):12.2f}")


def main() -> None:
    """Run both in turn and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--upstream-bin")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--kinds", nargs="+", choices=tuple(WANTED), default=list(WANTED))
    parser.add_argument("--key", choices=KINDS, help="kind of the signing key (default: that of kiwi-id init)")
    parser.add_argument(
        "--argon2", metavar="KIB,PASSES", type=_price, help="the hash of dear passwords (default: found by a measurement)"
    )
    parser.add_argument("--plain", action="store_true", help="no TLS towards the client; kanidmd has no such choice")
    parser.add_argument("--python", default="", help="options of the Python that runs Kiwi ID, such as '-m cProfile -o FILE'")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    rounds: dict[tuple[str, int, str], list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="kiwi-bench-") as name:
        directory = Path(name)
        kanidmd, version = find_kanidmd(args.upstream_bin, directory)
        if kanidmd.is_relative_to(directory):  # the stand-in, which imports nobody
            args.kinds = [kind for kind in args.kinds if kind != "dear"]
        with running(directory, kanidmd, args) as it:
            dear = args.argon2 or (price(it) if "dear" in args.kinds else None)
            for turn in range(args.rounds):
                for kind in args.kinds:
                    for concurrency in args.concurrency:
                        # Who comes second finds a fuller database: take turns in that as well.
                        for who in ("native", "Kiwi ID") if turn % 2 == 0 else ("Kiwi ID", "native"):
                            argon2 = dear if kind == "dear" else None
                            found = measure(it, kind, concurrency, argon2, native=who == "native")
                            rounds.setdefault((kind, concurrency, who), []).append(found)
    table = {key: {name: statistics.median(one[name] for one in results) for name in results[0]} for key, results in rounds.items()}
    side = "HTTP" if args.plain else "TLS"
    print(f"kanidmd {version}, client side of Kiwi ID {side}, key {args.key or 'default'}, median of {args.rounds}")
    if dear:
        print(f"dear passwords: argon2id, {dear[0]} KiB, {dear[1]} passes")
    ratios = []
    for kind in args.kinds:
        for concurrency in args.concurrency:
            first, second = table[kind, concurrency, "native"], table[kind, concurrency, "Kiwi ID"]
            show(f"{kind}, {concurrency} at once", first, second)
            rates = second["per_second"] / first["per_second"]
            ratios.append((kind, concurrency, rates, typical(first) / typical(second), cpu(first) / cpu(second)))
    print("\nKiwi ID / native: logins/s; native / Kiwi ID: sum of the steps' medians, CPU of a login")
    for kind, concurrency, *three in ratios:
        wanted = f"wanted: {WANTED[kind]:.2f}" if WANTED[kind] else "as high as can be"
        print(f"  {kind:9} {concurrency:3} at once" + "".join(f"{ratio:7.2f}" for ratio in three) + f"   ({wanted})")
    if args.json:
        rows = {f"{kind} {concurrency} {who}": row for (kind, concurrency, who), row in table.items()}
        Path(args.json).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
