"""The report as a page: what was wanted and what came out, the tables behind it, and the plot."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from bench.report_aims import Results, Table, aims
from bench.report_contenders import KIWI, KIWI_HTTP
from bench.report_measures import Figures


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines)


def _cell(figures: Figures, key: str, form: Callable[[float], str]) -> str:
    return form(figures[key]) if key in figures else "–"


def _whole(value: float) -> str:
    return f"{value:,.0f}"


def _tenth(value: float) -> str:
    return f"{value:,.1f}"


def _milli(value: float) -> str:
    return f"{value / 1000:,.2f}"


def _hundredth(value: float) -> str:
    return f"{value:.2f}"


def _named(table: Table, columns: Sequence[tuple[str, str, Callable[[float], str]]], first: str = "Contender") -> str:
    head = [first, *(title for title, _, _ in columns)]
    rows = (
        [f"**{name}**" if name == KIWI else name, *(_cell(row, key, form) for _, key, form in columns)]
        for name, row in table.items()
    )
    return _table(head, rows)


def page(results: Results) -> str:
    """Return the report in Markdown."""
    scale = results.scale
    parts = ["# The fast path, measured\n", "Written by `python -m bench.report`; all contenders ran in turn in this one run.\n"]
    parts += [_table(["", ""], results.machine), ""]
    parts += [f"Not measured: **{name}**, because {reason}.\n" for name, reason in results.missing.items()]
    parts += ["## Wanted and found\n", _table(["What", "Wanted", "Found", "Reached"], (aim.row() for aim in aims(results))), ""]
    parts += _speed(results)
    if results.bodies:
        size = f"{scale.body_bytes / (1 << 20):g} MiB"
        parts.append(
            f"## Bodies of {size}\n\nMiB of body a second; CPU of the contender for one body; its memory in MB before, at its "
            "peak, and after; how many bodies of how many ended their connection.\n"
        )
        columns = [("MiB/s", "mib_s", _whole), ("CPU ms", "cpu_us", _milli)]
        columns += [("before", "before_mb", _tenth), ("peak", "peak_mb", _tenth), ("after", "after_mb", _tenth)]
        columns += [("ended", "closed", _whole), ("of", "transfers", _whole)]
        for label, table in results.bodies.items():
            parts += [f"{label[0].upper()}{label[1:]}:\n", _named(table, columns), ""]
    if results.memory:
        parts.append(
            f"## Memory and idle connections\n\nA fresh instance: RSS in MB when ready, when a first page has loaded Quart-Trio, "
            f"with {scale.most:,} open connections that have each had an answer, and after they are gone. CPU seconds over "
            f"{scale.idle_seconds:g} s, with these connections idle and without any.\n"
        )
        columns = [("ready", "ready_mb", _tenth), ("loaded", "loaded_mb", _tenth), ("connections", "connections_mb", _tenth)]
        columns += [
            ("after", "after_mb", _tenth),
            ("CPU s, idle", "idle_cpu_s", _hundredth),
            ("CPU s, alone", "alone_cpu_s", _hundredth),
        ]
        parts += [_named(results.memory, columns), ""]
    if results.resumption:
        parts.append("## TLS handshakes\n\nCPU of the contender for a connection with one request; P-256 certificate.\n")
        rows = [
            [name, kind, one.protocol, _whole(one.cpu_us), _milli(one.median_us), f"{one.resumed:.0%}"]
            for name, pair in results.resumption.items()
            for kind, one in pair.items()
        ]
        parts += [_table(["Contender", "Handshake", "Protocol", "CPU µs", "median ms", "resumed"], rows), ""]
    if results.own_answers:
        columns = [("req/s", "rps", _whole), ("CPU µs", "cpu_us", _whole), ("p99 ms", "p99_us", _milli)]
        parts += ["## What Kiwi ID answers itself\n", _named(results.own_answers, columns, "Path"), ""]
        parts += [f"Left out: `{path}`, {reason}.\n" for path, reason in results.left_out.items()]
    if results.imports[1]:
        total, modules, heaviest = results.imports
        parts.append(
            f"## Imports of `kiwi-id run`\n\n{modules} modules, {total:.0f} ms, until the issuer is loaded; the heaviest:\n"
        )
        parts += [_table(["Package", "ms"], ([f"`{name}`", f"{own:.1f}"] for name, own in heaviest)), ""]
    if results.sweep:
        parts += [_sweep(results), ""]
    return "\n".join(parts)


def _speed(results: Results) -> list[str]:
    parts: list[str] = []
    scale = results.scale
    if results.throughput:
        parts.append(
            f"## A proxied GET of 1.1 KB\n\n{scale.connections} keep-alive connections, TLS on both sides but where a name says "
            f"otherwise, as many requests as each can do; medians of {scale.rounds}. *direct* is the upstream itself.\n"
        )
        columns = [("req/s", "rps", _whole), ("CPU µs a request", "cpu_us", _whole), ("p50 ms", "p50_us", _milli)]
        parts += [_named(results.throughput, [*columns, ("p99 ms", "p99_us", _milli), ("RSS MB", "rss_mb", _tenth)]), ""]
    if results.half_load:
        parts.append(
            "Requests at random times (an open loop; latency counts from when a request came): at half of what each can do, and at "
            "half of what the slower of Kiwi ID and aiohttp can.\n"
        )
        columns = []
        for kind, words in (("own", "half its own"), ("common", "common")):
            columns += [(f"{words}, req/s", f"{kind}_rate", _whole), ("p50 ms", f"{kind}_p50_us", _milli)]
            columns += [("p99 ms", f"{kind}_p99_us", _milli)]
        parts += [_named(results.half_load, columns), ""]
    return parts


def _sweep(results: Results) -> str:
    levels = results.scale.levels
    head = ["Contender", *(f"{level:,}" for level in levels)]
    text = (
        f"## By number of connections\n\n{results.scale.connections} requests in flight (fewer on fewer connections), each on the "
        "connection that has been idle longest, so that all are in use. CPU µs a request:\n\n"
    )
    for key, between in (("cpu_us", "\n\nRSS in MB at the end of each:\n\n"), ("rss_mb", "")):
        rows = ([name, *(_whole(row[level][key]) for level in levels)] for name, row in results.sweep.items())
        text += _table(head, rows) + between
    return text + "\n\n![CPU per request and memory by number of connections](report.png)"


def plot(results: Results, file: Path) -> str:
    """Draw CPU per request and memory by the number of connections; return why not, when that cannot be done."""
    if importlib.util.find_spec("matplotlib") is None:
        return "matplotlib is not installed (pip install --group bench, or make report)"
    import matplotlib as mpl  # noqa: PLC0415 - bench-only, and heavy

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    for name, levels in results.sweep.items():
        style = {"marker": "o", "linewidth": 2.4 if name in (KIWI, KIWI_HTTP) else 1.2, "label": name}
        left.plot(list(levels), [one["cpu_us"] for one in levels.values()], **style)
        right.plot(list(levels), [one["rss_mb"] for one in levels.values()], **style)
    left.set(xscale="log", yscale="log", title="CPU per proxied GET", xlabel="open connections", ylabel="µs")
    right.set(title="Memory", xlabel="open connections", ylabel="RSS, MB", ylim=(0, None))
    for axes in (left, right):
        axes.grid(True, alpha=0.3, which="both")
    left.legend(fontsize=8)
    figure.savefig(file, dpi=120)
    plt.close(figure)
    return ""
