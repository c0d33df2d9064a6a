"""Stopping: every signal that asks for it, draining, a second signal that hurries, and that nothing survives."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from tests.supervisor.kiwi import Kiwi, alive, catches, eventually


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGPWR, signal.SIGRTMIN + 3])
def test_each_stop_signal_ends_all_in_order_with_0(kiwi: Kiwi, number: int) -> None:
    """TERM, Ctrl-C, and how LXC and systemd-nspawn power off: the child gets one TERM, the exit code is 0, nothing is left."""
    kiwi.start_ready()
    kiwi.signal(number)
    assert kiwi.wait() == 0
    assert kiwi.child_signals() == ["SIGTERM"]
    assert not alive(kiwi.events("start")[0]["pid"])
    assert not (kiwi.places.runtime_dir / "control.sock").exists()
    reason = {signal.SIGRTMIN + 3: "SIGRTMIN+3"}.get(number) or signal.Signals(number).name
    assert kiwi.logs(msg="stopped", reason=reason)


def test_requests_in_flight_are_drained_before_the_child_is_stopped(kiwi: Kiwi) -> None:
    """A request that runs when TERM comes is answered; only then does kanidmd get its TERM. New connections are refused."""
    kiwi.start_ready()
    answers: list[tuple[int, str]] = []
    client = threading.Thread(target=lambda: answers.append(kiwi.get("/slow?s=1.5")))
    client.start()
    request = kiwi.wait_event("request")
    kiwi.signal(signal.SIGTERM)
    kiwi.wait_log("stopping", component="signals")
    eventually(lambda: not _accepts(kiwi), "the end of accepting")
    assert kiwi.ask()["draining"] is True
    assert kiwi.wait() == 0
    client.join()
    assert answers == [(200, "life 0")]
    assert kiwi.events("signal")[0]["at"] >= request["at"] + 1.5


def _accepts(kiwi: Kiwi) -> bool:
    try:
        kiwi.get("/livez")
    except OSError:
        return False
    return True


def test_a_request_that_does_not_end_is_cut_at_the_deadline(kiwi: Kiwi) -> None:
    """Draining is bounded: a request that would take longer than shutdown_timeout does not hold the stop up."""
    kiwi.set(shutdown_timeout="2s")
    kiwi.start_ready()
    with kiwi.connection() as connection:
        connection.request("GET", "/slow?s=50")
        kiwi.wait_event("request")
        assert kiwi.stop() == 0
    assert kiwi.logs(msg="ending connections that did not drain")


def test_a_second_signal_hurries(kiwi: Kiwi) -> None:
    """The second stop signal cuts the drain and the child's grace short; the exit code stays 0 and nothing is left."""
    kiwi.set(shutdown_timeout="10m")
    kiwi.behave({"ignore_term": True, "grandchild": "session"})
    kiwi.start_ready()
    with kiwi.connection() as connection:
        connection.request("GET", "/slow?s=50")
        kiwi.wait_event("request")
        kiwi.signal(signal.SIGTERM)
        kiwi.wait_log("stopping", component="signals")
        kiwi.signal(signal.SIGINT)
        assert kiwi.wait() == 0
    assert kiwi.logs(msg="hurrying", reason="SIGINT")
    assert not [event for event in kiwi.events() if alive(event["pid"])]


def test_a_rain_of_stop_signals_still_ends_with_0(kiwi: Kiwi) -> None:
    """Signals that keep coming, up to the very last moment of the process, do not turn the exit code into a death by signal."""
    kiwi.start_ready()
    while kiwi.process.poll() is None:
        kiwi.signal(signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
        time.sleep(0.001)
    assert kiwi.wait() == 0
    assert not alive(kiwi.events("start")[0]["pid"])


def test_a_term_that_the_child_loses_is_sent_again(kiwi: Kiwi) -> None:
    """Kanidm 1.5.0 loses a TERM within 5 s of a HUP: a second one follows, and no KILL is needed."""
    kiwi.set(shutdown_timeout="40s")
    kiwi.behave({"lose_terms": 1})
    kiwi.start_ready()
    assert kiwi.stop() == 0
    first, second = kiwi.events("signal")
    assert (first["name"], second["name"]) == ("SIGTERM", "SIGTERM")
    assert second["at"] - first["at"] > 4.5
    assert not kiwi.logs(msg="killing the child: it did not end in time")


def test_a_child_that_ignores_term_is_killed_at_the_deadline(kiwi: Kiwi) -> None:
    """KILL comes before shutdown_timeout is over, and the exit code is still 0: the stop was what was asked for."""
    kiwi.set(shutdown_timeout="2s")
    kiwi.behave({"ignore_term": True})
    kiwi.start_ready()
    assert kiwi.stop() == 0
    assert kiwi.logs(msg="killing the child: it did not end in time")
    assert not alive(kiwi.events("start")[0]["pid"])


@pytest.mark.parametrize("kind", ["group", "session"])
def test_no_grandchild_survives(kiwi: Kiwi, kind: str) -> None:
    """A grandchild that ignores TERM and holds the output pipe, even in a session of its own, is gone when Kiwi ID is.

    As a subreaper Kiwi ID inherits it, which makes it findable.
    """
    kiwi.set(shutdown_timeout="4s")
    kiwi.behave({"grandchild": kind})
    kiwi.start_ready()
    [grandchild] = kiwi.events("grandchild")
    assert kiwi.stop() == 0
    assert not alive(grandchild["pid"])
    assert kiwi.child_signals() == ["SIGTERM"]


def test_a_stopped_child_is_stopped_all_the_same(kiwi: Kiwi) -> None:
    """A child under SIGSTOP would not see the TERM: it is continued, ends in order, and the stop is not held up."""
    kiwi.start_ready()
    os.kill(kiwi.child_pid(), signal.SIGSTOP)
    assert kiwi.stop() == 0
    assert kiwi.child_signals() == ["SIGTERM"]
    assert not kiwi.logs(msg="killing the child: it did not end in time")


@pytest.mark.parametrize("behaviour", [{"never_ready": True}, {"exit": 1}], ids=["starting", "backoff"])
def test_a_stop_while_the_child_is_not_ready(kiwi: Kiwi, behaviour: dict[str, object]) -> None:
    """A stop while kanidmd boots, or in the pause before a restart, works like any other."""
    kiwi.set(restart_limit="=1000")
    kiwi.behave(behaviour)
    kiwi.start()
    kiwi.wait_event("start", 5 if "exit" in behaviour else 1)
    assert kiwi.stop() == 0
    assert kiwi.logs(msg="stopped", reason="SIGTERM")
    assert not [event for event in kiwi.events() if alive(event["pid"])]


def test_stops_at_every_moment_of_the_start(kiwi: Kiwi) -> None:
    """TERM at any time after the handlers are there, which is before the heavy imports: exit code 0 and no process left."""
    for pause in (0, 0.07, 0.14, 0.21, 0.3):
        kiwi.start()
        eventually(lambda: catches(kiwi.process.pid, signal.SIGTERM), "a handler for TERM")
        time.sleep(pause)
        assert kiwi.stop() == 0, pause
        assert not [event for event in kiwi.events() if alive(event["pid"])]
