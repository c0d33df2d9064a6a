"""What issue 8 wants, held against what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from bench.report_client import Handshakes
from bench.report_contenders import AIOHTTP, KIWI, NGINX, PLAIN
from bench.report_measures import PROXIED, Figures, Scale

# Figures of each contender, in the order in which they are shown.
Table = Mapping[str, Figures]


@dataclass
class Results:
    """Everything that was measured; what was not is empty."""

    scale: Scale
    machine: Sequence[tuple[str, str]]
    missing: Mapping[str, str]
    throughput: Table = field(default_factory=dict)
    half_load: Table = field(default_factory=dict)
    bodies: Mapping[str, Table] = field(default_factory=dict)
    memory: Table = field(default_factory=dict)
    resumption: Mapping[str, Mapping[str, Handshakes]] = field(default_factory=dict)
    own_answers: Table = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    imports: tuple[float, int, Sequence[tuple[str, float]]] = (0.0, 0, ())
    sweep: Mapping[str, Mapping[int, Figures]] = field(default_factory=dict)


@dataclass(frozen=True)
class Aim:
    """One thing that was wanted: a figure, its bound, and on which side of that it should be."""

    what: str
    value: float
    bound: float
    most: bool
    digits: int = 2
    unit: str = ""

    @property
    def reached(self) -> bool:
        """Whether the figure is on the right side."""
        return self.value <= self.bound if self.most else self.value >= self.bound

    def row(self) -> list[str]:
        """Return the cells of its line."""
        sign = "≤" if self.most else "≥"
        unit = f" {self.unit}" if self.unit else ""
        wanted = f"{sign} {self.bound:g}{unit}"
        return [self.what, wanted, f"**{self.value:.{self.digits}f}{unit}**", "yes" if self.reached else "**no**"]


def aims(results: Results) -> list[Aim]:
    """Return what issue 8 wants, as far as it was measured."""
    return [*_speed(results), *_bodies(results), *_memory(results), *_own(results), *_growth(results)]


def _speed(results: Results) -> Iterator[Aim]:
    speed, half = results.throughput, results.half_load
    if speed:
        yield Aim("CPU per proxied GET, Kiwi ID / plain stack", speed[KIWI]["cpu_us"] / speed[PLAIN]["cpu_us"], 0.2, True)
    if AIOHTTP in speed:
        yield Aim("requests per second, Kiwi ID / aiohttp", speed[KIWI]["rps"] / speed[AIOHTTP]["rps"], 1.2, False)
    if AIOHTTP in half:
        for key, what in (("own", "at half load of each"), ("common", "at one common rate")):
            yield Aim(f"p99 {what}, Kiwi ID / aiohttp", half[KIWI][f"{key}_p99_us"] / half[AIOHTTP][f"{key}_p99_us"], 1, True)


def _bodies(results: Results) -> Iterator[Aim]:
    for label, table in results.bodies.items():
        if NGINX in table:
            yield Aim(f"large bodies {label}, Kiwi ID / nginx", table[KIWI]["mib_s"] / table[NGINX]["mib_s"], 0.5, False)
    if results.bodies:
        growth = max(table[KIWI]["peak_mb"] - table[KIWI]["before_mb"] for table in results.bodies.values())
        # Flat: less than a third of one body, with up to four in transit.
        yield Aim("memory that large bodies add at their peak", growth, 10, True, 1, "MB")


def _memory(results: Results) -> Iterator[Aim]:
    for name, figures in results.memory.items():
        yield Aim(f"RSS idle, everything loaded, {name}", figures["loaded_mb"], 55, True, 1, "MB")
        held = f"{results.scale.most:,} open connections"
        yield Aim(f"RSS with {held}, {name}", figures["connections_mb"], 120, True, 1, "MB")
        # "No cost": no more than the clock's own resolution shows, with or without connections.
        extra = (figures["idle_cpu_s"] - figures["alone_cpu_s"]) / figures["idle_s"] * 100
        yield Aim(f"CPU of {held}, idle, {name}", extra, 0.2, True, 2, "% of a core")


def _own(results: Results) -> Iterator[Aim]:
    if results.resumption:
        yield Aim("TLS sessions resumed when offered", results.resumption[KIWI]["resumed"].resumed, 1, False)
    for path, figures in results.own_answers.items():
        if path != PROXIED:
            yield Aim(f"rate of `{path}` / proxied", figures["rps"] / results.own_answers[PROXIED]["rps"], 3, False)
    if results.imports[1]:
        yield Aim("`-X importtime` of `kiwi-id run`, in all", results.imports[0], 250, True, 0, "ms")


def _growth(results: Results) -> Iterator[Aim]:
    """Growth is linear when a request costs the same among thousands of connections; processor caches allow for some more."""
    if KIWI in results.sweep:
        levels, usual = results.sweep[KIWI], results.scale.connections
        base = min(levels, key=lambda level: abs(level - usual))
        ratio = levels[max(levels)]["cpu_us"] / levels[base]["cpu_us"]
        yield Aim(f"CPU per request at {max(levels):,} connections / at {base}", ratio, 1.5, True)
