"""The measurements of the report, one function each; all take contenders that run and return plain figures."""

from __future__ import annotations

import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.processes import ROOT, cpu_seconds, rss_mb
from bench.report_client import Handshakes, ask, handshakes
from bench.report_contenders import AIOHTTP, CONSTANT, DIRECT, KIWI, PLAIN, Contender, Kiwi, Room
from bench.upstream import BODY

PROXIED = "/oauth2/openid/bench/public_key.jwk"
OWN = ("/oauth2/keys", "/.well-known/openid-configuration", "/livez", "/readyz", "/healthz", "/auth/verify")
# A page of the Quart-Trio application: the first time it is asked for, that is loaded.
PAGE = "/oauth2/logout"
_WRK = """done = function(summary, latency)
  local e = summary.errors
  io.write(string.format('\\n{"requests": %d, "seconds": %f, "p50_us": %d, "p99_us": %d, "errors": %d, "refused": %d}\\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50), latency:percentile(99),
    e.connect + e.read + e.write + e.timeout, e.status))
end
"""
# Requests a second that bench/load.py can pace without being late itself; beyond it we would measure that.
_PACED = 5000
Figures = dict[str, float]


@dataclass(frozen=True)
class Scale:
    """How long and how often: of a full report, of a quick one, of the smoke test."""

    rounds: int
    seconds: float
    connections: int
    levels: tuple[int, ...]
    handshakes: int
    starts: int
    body_bytes: int
    idle_seconds: float

    @property
    def most(self) -> int:
        """The largest number of connections."""
        return self.levels[-1]


def _json_of(command: Sequence[str], contender: Contender) -> dict[str, Any]:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"bench: {contender.name}: {done.stderr.strip()[-500:]}")
    found: dict[str, Any] = json.loads(done.stdout[done.stdout.rindex("\n{") :] if "\n{" in done.stdout else done.stdout)
    return found


def load(contender: Contender, connections: int, seconds: float, *options: str) -> Figures:
    """Load a contender with ``bench.load``. Raises SystemExit when anything was refused or lost."""
    command = [sys.executable, "-m", "bench.load", "127.0.0.1", str(contender.port), "--connections", str(connections)]
    command += ["--seconds", str(seconds), "--pid", str(contender.pid), *(["--tls"] if contender.tls else []), *options]
    found = _json_of(command, contender)
    if found["errors"]:
        raise SystemExit(f"bench: {contender.name}, {connections} connections: {found['errors']} errors: {found['first_error']}")
    if not found["requests"] and "0" not in options:
        raise SystemExit(f"bench: {contender.name}, {connections} connections: no answer in {seconds:g} s")
    return {key: float(value) for key, value in found.items() if key != "first_error"}


def saturate(contender: Contender, connections: int, seconds: float, path: str = PROXIED, *, refused: bool = False) -> Figures:
    """Load a contender as far as it goes, with wrk when that is installed; return rates, times, and CPU µs a request.

    ``refused``: answers that are no success are what is wanted (a check of who is logged in, without a cookie).
    """
    wrk = shutil.which("wrk")
    if wrk is None or seconds < 1:  # wrk counts whole seconds
        found = load(contender, connections, seconds, "--path", path)
    else:
        with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
            script.write(_WRK)
            script.flush()
            url = f"{'https' if contender.tls else 'http'}://127.0.0.1:{contender.port}{path}"
            command = [wrk, "-t1", f"-c{connections}", "-H", "Host: id.example.com", "-s", script.name]
            _json_of([*command, "-d1s", url], contender)  # connections upstream are opened, code paths are warm
            used = cpu_seconds(contender.pid)
            found = _json_of([*command, f"-d{max(1, round(seconds))}s", url], contender)
            found |= {"cpu_s": cpu_seconds(contender.pid) - used, "rss_mb": rss_mb(contender.pid)}
        found["errors"] += 0 if refused else found["refused"]
        if found["errors"] or not found["requests"]:
            raise SystemExit(f"bench: {contender.name}, {path}: {found['errors']} errors in {found['requests']} requests")
    return {
        "rps": found["requests"] / found["seconds"],
        "cpu_us": found["cpu_s"] / found["requests"] * 1e6,
        **{key: found[key] for key in ("p50_us", "p99_us", "rss_mb")},
    }


def _medians(rounds: Mapping[str, list[Figures]]) -> dict[str, Figures]:
    return {name: {key: statistics.median(one[key] for one in many) for key in many[0]} for name, many in rounds.items()}


def throughput(contenders: Sequence[Contender], scale: Scale) -> dict[str, Figures]:
    """Saturate each contender in turn, in each round; return medians."""
    rounds: dict[str, list[Figures]] = {}
    for _ in range(scale.rounds):
        for one in contenders:
            rounds.setdefault(one.name, []).append(saturate(one, scale.connections, scale.seconds))
    return _medians(rounds)


def half_load(contenders: Sequence[Contender], most: Mapping[str, Figures], scale: Scale) -> dict[str, Figures]:
    """Return latencies in an open loop: at half of what each can do, and at one common rate: half of Kiwi ID's or aiohttp's."""
    common = min(most[name]["rps"] for name in (KIWI, AIOHTTP) if name in most) / 2
    rounds: dict[str, list[Figures]] = {}
    for _ in range(scale.rounds):
        for one in contenders:
            if one.name == DIRECT:
                continue
            own = min(most[one.name]["rps"] / 2, _PACED)
            found = {"own_rate": own, "common_rate": common}
            for kind, rate in (("own", own), ("common", common)):
                if rate < 0.9 * most[one.name]["rps"]:
                    result = load(one, scale.connections, scale.seconds, "--rate", str(rate))
                    found |= {f"{kind}_p50_us": result["p50_us"], f"{kind}_p99_us": result["p99_us"]}
            rounds.setdefault(one.name, []).append(found)
    return _medians(rounds)


def bodies(contenders: Sequence[Contender], scale: Scale) -> dict[str, dict[str, Figures]]:
    """Return throughput and memory with large bodies, by direction (``up``, ``down``, and ``… x 4`` on four connections)."""
    rounds: dict[str, dict[str, list[Figures]]] = {}
    for _ in range(scale.rounds):
        for at_once in (1, 4):
            for direction in ("down", "up"):
                for one in contenders:
                    if one.name in (PLAIN, CONSTANT):  # one keeps bodies whole and refuses large ones, one knows none
                        continue
                    command = [sys.executable, "-m", "bench.bodies", "127.0.0.1", str(one.port), "--direction", direction]
                    command += ["--seconds", str(scale.seconds / 2), "--pid", str(one.pid), "--size", str(scale.body_bytes)]
                    command += ["--connections", str(at_once), *(["--tls"] if one.tls else [])]
                    label = direction if at_once == 1 else f"{direction} x {at_once}"
                    found = _json_of(command, one)
                    found["cpu_us"] = found["cpu_s"] / found["transfers"] * 1e6
                    rounds.setdefault(label, {}).setdefault(one.name, []).append(found)
    return {label: _medians(found) for label, found in rounds.items()}


def sweep(contenders: Sequence[Contender], scale: Scale) -> dict[str, dict[int, Figures]]:
    """Return CPU per request and memory by the number of open connections, some requests in flight, rotating over all of them."""
    found: dict[str, dict[int, Figures]] = {}
    for one in contenders:
        if one.name == DIRECT:
            continue
        for level in scale.levels:
            result = load(one, level, scale.seconds, "--in-flight", str(scale.connections))
            figures = {"cpu_us": result["cpu_s"] / result["requests"] * 1e6, "rss_mb": result["rss_mb"]}
            found.setdefault(one.name, {})[level] = figures | {"rps": result["requests"] / result["seconds"]}
    return found


def memory(room: Room, scale: Scale) -> dict[str, Figures]:
    """Return the supervisor's memory on a fresh instance: ready, with everything loaded, and with most connections, idle."""
    found = {}
    for tls in (True, False):
        with room.kiwi(tls=tls) as kiwi:
            figures = {"ready_mb": rss_mb(kiwi.pid)}
            status, _ = ask(kiwi.port, tls, PAGE)
            if status >= 500:
                raise SystemExit(f"bench: {PAGE} answered {status}: the Quart-Trio application was not loaded")
            alone = cpu_seconds(kiwi.pid)
            time.sleep(scale.idle_seconds)
            figures |= {"loaded_mb": rss_mb(kiwi.pid), "alone_cpu_s": cpu_seconds(kiwi.pid) - alone}
            held = load(kiwi, scale.most, scale.idle_seconds, "--in-flight", "0")
            figures |= {"connections_mb": held["rss_mb"], "idle_cpu_s": held["cpu_s"], "idle_s": held["seconds"]}
            time.sleep(1)  # 5,000 ends of connections are being looked at
            figures["after_mb"] = rss_mb(kiwi.pid)
        found[kiwi.name] = figures
    return found


def resumption(contenders: Sequence[Contender], scale: Scale) -> dict[str, dict[str, Handshakes]]:
    """Return what full and resumed handshakes cost each contender, in turn."""
    return {
        one.name: {
            kind: handshakes(one.port, one.pid, PROXIED, scale.handshakes, resume=kind == "resumed") for kind in ("full", "resumed")
        }
        for one in contenders
    }


def own_answers(kiwi: Kiwi, scale: Scale) -> tuple[dict[str, Figures], dict[str, str]]:
    """Return the rates of what Kiwi ID answers itself beside the proxied one, and why a path is not among them."""
    left_out = {}
    statuses = {PROXIED: 200}
    for path in OWN:
        status, body = ask(kiwi.port, kiwi.tls, path)
        if body == BODY:
            left_out[path] = "not Kiwi ID's own: it was passed to the upstream"
        elif status != 200 and shutil.which("wrk") is None:
            left_out[path] = f"answers {status}, which only wrk can be told to accept"
        elif status >= 500 or status == 404:
            left_out[path] = f"answers {status}"
        else:
            statuses[path] = status
    rounds: dict[str, list[Figures]] = {}
    for _ in range(scale.rounds):
        for path, status in statuses.items():
            found = saturate(kiwi, scale.connections, scale.seconds / 2, path, refused=status >= 400)
            rounds.setdefault(path, []).append(found)
    return _medians(rounds), left_out


def imports(room: Room, scale: Scale) -> tuple[float, int, list[tuple[str, float]]]:
    """Return what ``python -X importtime`` says of ``kiwi-id run``: milliseconds in all, modules, and the heaviest packages.

    It runs until it is ready and its issuer is loaded. Sums are of each module's own time, so nothing counts twice.
    """
    runs = []
    for _ in range(scale.starts):
        with room.kiwi(tls=False, python=["-X", "importtime"]) as kiwi:
            pass  # being ready was all
        text = kiwi.log.read_text(encoding="utf-8")
        lines = re.findall(r"^import time: +(\d+) \| +\d+ \| +(\S+)$", text, re.MULTILINE)
        runs.append([(name, int(own) / 1000) for own, name in lines])
    whole = sorted(runs, key=lambda run: sum(own for _, own in run))[len(runs) // 2]
    packages: dict[str, float] = {}
    for name, own in whole:
        parts = name.split(".")
        package = ".".join(parts[:2]) if parts[0] == "kiwi_id" else parts[0]
        packages[package] = packages.get(package, 0.0) + own
    heaviest = sorted(packages.items(), key=lambda item: -item[1])[:12]
    return sum(own for _, own in whole), len(whole), heaviest
