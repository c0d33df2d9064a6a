"""The fault runner: ``python -m tests.faults.soak --cycles N [--seed S] [--kanidmd PATH]``, which is ``make soak CYCLES=N``.

One cycle is one fault, and kanidmd serving again. The faults and their order come from the seed. All the while people log in
through the issuer, programs read and write over REST and a relying party refreshes its tokens; every request is counted by what
came of it:

``ok``: answered as it should be. ``uncertain``: what may change something was under way when kanidmd died, and got 502: it is never
sent twice. ``anew``: Kanidm keeps a login that is under way in memory, so it began again. ``lost``: everything else.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import sys
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import trio

from kiwi_id import demo
from kiwi_id.kanidm.pin import client_context
from tests.faults import load
from tests.faults.inject import Faults
from tests.faults.tally import Tally
from tests.faults.world import World, running

# Cycles after which memory and descriptors are looked at for the first time: everything is loaded, every pool is filled.
_WARM = 0.15
# And how many after which they are looked at again: that takes a kill and quiet, a second or more.
_PART = 50
# Descriptors that may be open just then, for a probe or an answer of ours; a leak is as many as there were faults.
_MOMENTARY = 2
# The share of early answers that may go down with kanidmd's own connection; about one in a thousand was seen.
_SWALLOWED = 0.01


@dataclass
class Report:
    """What came of a run."""

    seed: int
    cycles: int = 0
    seconds: float = 0.0
    faults: dict[str, int] = field(default_factory=dict)
    requests: dict[str, dict[str, int]] = field(default_factory=dict)
    answered: int = 0
    uncertain: int = 0
    begun_anew: int = 0
    lost: int = 0
    harmed: int = 0  # uncertain though kanidmd was not ended, or only in order: by a planned restart
    early_answers_swallowed: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    arrivals: int = 0  # what may change something, as counted by the stand-in
    duplicates: int = 0
    examples: list[str] = field(default_factory=list)
    failure: str = ""
    exit_code: int | None = None
    processes_left: int = 0
    children: int = 0
    descriptors: list[dict[str, int]] = field(default_factory=list)
    descriptors_leaked: int = 0
    memory_mb: list[float] = field(default_factory=list)
    memory_growth_mb: float = 0.0
    internal_errors: list[str] = field(default_factory=list)
    torn_log_lines: int = 0
    lines_told_lost: int = 0

    @property
    def good(self) -> bool:
        """Whether nothing has happened that must not."""
        leaked = self.descriptors_leaked > _MOMENTARY
        swallowed = self.early_answers_swallowed > 1 + self.requests.get("early answer", {}).get("ok", 0) * _SWALLOWED
        numbers = (self.lost, self.duplicates, self.harmed, self.processes_left, leaked, swallowed)
        texts = (self.failure, self.internal_errors, self.torn_log_lines)
        return not any(numbers) and not any(texts) and self.exit_code == 0 and self.children == 1

    def as_text(self) -> str:
        """Return it as JSON for people."""
        return json.dumps(asdict(self), indent=1)


def run(cycles: int, seed: int, kanidmd: Path | None = None, *, seconds: float = float("inf"), pace: float = 0.2) -> Report:
    """Run so many cycles, fewer when ``seconds`` are over.

    ``pace``: seconds between two logins of one person.
    """
    report = Report(seed)
    with running(kanidmd) as world:
        trio.run(_run, world, report, cycles, seconds, pace)
        report.children = world.children()
        report.exit_code, left = world.stop()
        report.processes_left = len(left)
        _read_logs(world, report)
        report.arrivals = len(world.arrivals())
        report.duplicates += sum(count - 1 for line, count in Counter(world.arrivals()).items() if not line.endswith(" -"))
    return report


async def _run(world: World, report: Report, cycles: int, seconds: float, pace: float) -> None:
    made, admin_password = await world.provision()
    client = made.clients[0]
    assert client.secret is not None
    tally = Tally()
    names = (f"soak{number}" for number in itertools.count())
    setting = load.Setting(world.port, client.client_id, client.secret, admin_password, tally, pace, names)
    context = client_context(world.server.tls_chain)
    began = trio.current_time()
    done = 0

    def over() -> bool:
        return trio.current_time() - began > seconds

    while done < cycles and not over() and not report.failure:
        # In parts, with quiet between them: what is open and held can be compared only when nothing is under way.
        part = max(cycles // 10, _PART) if report.memory_mb else max(int(cycles * _WARM), 1)
        async with trio.open_nursery() as nursery:
            _start_load(nursery, setting, load.Administrator(setting, f"https://127.0.0.1:{world.upstream_port}", context))
            async with trio.open_nursery() as beside:
                faults = Faults(world, tally, report.seed + done, beside)
                for _ in range(min(part, cycles - done)):
                    if over():
                        break
                    try:
                        await faults.one()
                    except AssertionError as error:
                        report.failure = str(error)
                        break
                    done += 1
                beside.cancel_scope.cancel()
            # A request that a cancellation cuts off is not counted: it is we who left.
            nursery.cancel_scope.cancel()
        for name, count in faults.counts.items():
            report.faults[name] = report.faults.get(name, 0) + count
        await _look(world, report)
    report.cycles, report.seconds = done, round(trio.current_time() - began, 1)
    for (kind, outcome), count in sorted(tally.counts.items()):
        report.requests.setdefault(kind, {})[outcome] = count
    report.answered, report.uncertain = tally.total("ok"), tally.total("uncertain")
    report.begun_anew, report.lost = tally.total("anew"), tally.total("lost")
    report.duplicates, report.examples = tally.duplicates, tally.examples
    report.early_answers_swallowed = tally.unexplained.pop("early answer", 0)
    report.harmed = tally.unexplained.total()
    report.refused = (await world.ask("status"))["refused"]
    if len(report.descriptors) > 1:
        report.descriptors_leaked = _more(report.descriptors[0], report.descriptors[-1])
        report.memory_growth_mb = round(report.memory_mb[-1] - report.memory_mb[0], 2)


def _start_load(nursery: trio.Nursery, setting: load.Setting, administrator: load.Administrator) -> None:
    for user in demo.USERS:
        nursery.start_soon(load.logins, setting, user)
    nursery.start_soon(load.refreshes, setting, demo.USERS[0])
    nursery.start_soon(load.reads, setting, administrator)
    nursery.start_soon(load.writes, setting, administrator)
    nursery.start_soon(load.early_answers, setting)


async def _look(world: World, report: Report) -> None:
    """Note descriptors and memory once all connections, of clients and to kanidmd, are closed."""
    pid = await world.ready(None)
    os.kill(pid, signal.SIGKILL)  # connections to kanidmd that idle are closed with the life that they belong to
    await world.ready(pid)
    with trio.move_on_after(15):
        while (await world.ask("status"))["connections"]:  # noqa: ASYNC110 - of another process, which tells nobody
            await trio.sleep(0.05)
    found = world.descriptors()
    with trio.move_on_after(3):
        while report.descriptors and _more(report.descriptors[0], found):  # a probe may be on its way
            await trio.sleep(0.05)
            found = world.descriptors()
    report.descriptors[1:] = [found]  # the first and the last
    report.memory_mb.append(round(world.memory() / 1e6, 1))


def _more(before: dict[str, int], after: dict[str, int]) -> int:
    """Return how many descriptors there are more, of any kind."""
    return sum(max(0, count - before.get(kind, 0)) for kind, count in after.items())


def _read_logs(world: World, report: Report) -> None:
    texts = [world.stderr(), world.log.read_text(errors="replace") if world.log.exists() else ""]
    for number, text in enumerate(texts):
        for line in text.splitlines():
            try:
                record: dict[str, Any] = json.loads(line)
            except ValueError:
                report.torn_log_lines += number == 1 or line.startswith("{")
                continue
            if "traceback" in record and len(report.internal_errors) < 20:
                report.internal_errors.append(record["msg"] + ": " + record["traceback"][-600:])
            if number == 1 and record["msg"] == "log lines were lost":
                report.lines_told_lost += record["lines"]


def main() -> None:
    """Run and print the report; exit with 1 when something was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--cycles", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kanidmd", type=Path, help="a real one; without, the stand-in")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so many, whatever has been done by then")
    parser.add_argument("--pace", type=float, default=0.2, help="seconds between two logins of one person")
    args = parser.parse_args()
    report = run(args.cycles, args.seed, args.kanidmd, seconds=args.seconds, pace=args.pace)
    print(report.as_text())
    sys.exit(0 if report.good else 1)


if __name__ == "__main__":
    main()
