"""The fault runner itself, on the stand-in: what must not happen does not, and it would be seen if it did."""

from __future__ import annotations

from collections.abc import Awaitable

import pytest
import trio

from kiwi_id.instance.ports import free_port
from tests.faults import soak
from tests.faults.tally import Anew, Lost, Tally, Uncertain
from tests.faults.wire import Client

# Two runs, so that two processes can share 200 cycles: most of a cycle is waiting. More: make soak CYCLES=…
CYCLES, SEEDS = 100, (20261125, 20261126)


@pytest.mark.long
@pytest.mark.parametrize("seed", SEEDS)
def test_no_fault_loses_a_request(seed: int) -> None:
    """Kills, freezes, HUP storms, bad configurations, slow clients, full disks and restarts, in random order under load.

    No request is lost and none has its effect twice; no process is left and no descriptor; the log has neither half lines nor
    internal errors.
    """
    report = soak.run(CYCLES, seed)
    assert report.good, report.as_text()
    assert report.cycles == CYCLES
    assert len(report.faults) >= 7
    assert report.requests["whole login"]["ok"] >= CYCLES / 5
    assert report.refused["slow_reader"]
    assert report.requests["early answer"]["ok"]
    assert report.arrivals > report.requests["create"]["ok"]
    assert report.memory_growth_mb < 16, report.as_text()


def answer(status: str, body: str = "") -> bytes:
    """Return an answer as it stands on the wire."""
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


FRONT_502 = answer("502 Bad Gateway", '{"error": {"code": "upstream_failed"}}')
FRONT_503 = answer("503 Service Unavailable", '{"error": {"code": "upstream_unavailable"}}')


@pytest.mark.parametrize(
    ("method", "wire", "since", "outcome"),
    [
        ("GET", answer("200 OK"), 0, "ok"),
        ("GET", b"", 0, "lost"),
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", 0, "lost"),
        ("GET", FRONT_502, 0, "lost"),
        ("POST", FRONT_502, 0, "uncertain"),
        ("DELETE", FRONT_502, 0, "uncertain"),
        ("POST", FRONT_503, 0, "lost"),
        ("POST", FRONT_503, 1, "lost"),
        ("POST", answer("400 Bad Request", "who are you"), 0, "lost"),
        ("POST", answer("400 Bad Request", "who are you"), 1, "anew"),
        ("POST", answer("502 Bad Gateway", "<html>"), 0, "lost"),
    ],
)
async def test_what_counts_as_what(method: str, wire: bytes, since: int, outcome: str, nursery: trio.Nursery) -> None:
    """A refusal or a missing answer is a loss; only a 502 of the front to what may have been done is uncertain."""

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some(65536)
            await stream.send_all(wire)

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, serve, listeners)
    tally, client = Tally(), Client(listeners[0].socket.getsockname()[1])
    wanted = {"ok": None, "lost": Lost, "uncertain": Uncertain, "anew": Anew}[outcome]
    ask: Awaitable[object] = tally.ask("kind", client, method, "/x", since=since)
    if wanted is None:
        await ask
    else:
        with pytest.raises(wanted):
            await ask
    assert dict(tally.counts) == {("kind", outcome): 1}
    assert bool(tally.examples) == (outcome == "lost")
    client.close()


async def test_a_refused_connection_is_a_loss() -> None:
    """Nobody listens: lost."""
    tally = Tally()
    with pytest.raises(Lost):
        await tally.ask("kind", Client(free_port()), "POST", "/x")
    assert tally.total("lost") == 1


def test_a_report_with_anything_wrong_is_not_good() -> None:
    """Each count of what must not happen makes the run fail."""
    good = {"exit_code": 0, "children": 1}
    assert soak.Report(1, **good).good  # type: ignore[arg-type]
    for name in ("lost", "duplicates", "harmed", "processes_left", "descriptors_leaked", "torn_log_lines"):
        assert not soak.Report(1, **good, **{name: 3}).good  # type: ignore[arg-type]
    for wrong in ({"failure": "x"}, {"internal_errors": ["x"]}, {"exit_code": None}, {"children": 2}):
        assert not soak.Report(1, **(good | wrong)).good
