"""Lives of the child that end by themselves: crash, hang, short lives, and a binary swapped between two of them."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Callable

import pytest

from tests.supervisor.kiwi import Kiwi, alive, eventually

Make = Callable[..., Kiwi]


def test_an_exit_nobody_asked_for_is_a_failure_whatever_its_code(make: Make) -> None:
    """kanidmd ends with 0 when its listener dies: after any exit it is started anew, and the next request is served."""
    kiwis = {code: make() for code in (0, 1, 101)}
    for code, kiwi in kiwis.items():
        kiwi.behave({"exit_after": [code, 1.2]}, {})
        kiwi.start()
    for code, kiwi in kiwis.items():
        backoff = kiwi.wait_log("child backoff")
        assert backoff["reason"] == f"exit code {code}"
        assert backoff["restart_in_ms"] == 0
        kiwi.wait_log("child ready", 2)
        assert kiwi.get("/x") == (200, "life 1")
        assert kiwi.ask()["upstream"]["restarts"] == 1
        assert kiwi.stop() == 0


def test_kill_9_is_followed_by_a_restart_and_requests_wait_for_it(kiwi: Kiwi) -> None:
    """After SIGKILL of a serving child a request that comes meanwhile waits at the gate and is served by the next life."""
    kiwi.behave({}, {"ready_after": 0.5})
    kiwi.start_ready()
    os.kill(kiwi.child_pid(), signal.SIGKILL)
    assert kiwi.wait_log("child backoff")["reason"] == "signal SIGKILL"
    assert kiwi.get("/x") == (200, "life 1")


def test_a_grandchild_that_holds_the_output_delays_no_restart(kiwi: Kiwi) -> None:
    """A grandchild in its own session keeps the output pipe open; the next life starts all the same, with its output read."""
    kiwi.behave({"grandchild": "session"}, {"print": ["second life"]})
    kiwi.start_ready()
    os.kill(kiwi.child_pid(), signal.SIGKILL)
    kiwi.wait_log("child ready", 2)
    kiwi.wait_log("second life", component="kanidmd")
    [grandchild] = kiwi.events("grandchild")
    assert alive(grandchild["pid"])
    assert kiwi.stop() == 0
    assert not alive(grandchild["pid"])


def test_what_is_left_of_the_group_goes_with_the_child(kiwi: Kiwi) -> None:
    """A process that the child started in its own group does not outlive it: it could hold the database."""
    kiwi.behave({"grandchild": "group"}, {})
    kiwi.start_ready()
    [grandchild] = kiwi.events("grandchild")
    os.kill(kiwi.child_pid(), signal.SIGKILL)
    kiwi.wait_log("child backoff")
    eventually(lambda: not alive(grandchild["pid"]), "the end of the grandchild")


@pytest.mark.parametrize("behaviour", [{"exit": 3}, {"exit_after": [0, 0.05]}], ids=["before", "just-after"])
def test_a_row_of_short_lives_gives_up_with_69(kiwi: Kiwi, behaviour: dict[str, object]) -> None:
    """Lives that end before or just after readiness: the first restart at once, then with growing pauses, then 69 in words."""
    kiwi.set(restart_limit="=4")
    kiwi.behave({**behaviour, "print": ["no good"]})
    kiwi.start()
    assert kiwi.wait() == 69
    pauses = [record["restart_in_ms"] for record in kiwi.logs(msg="child backoff")]
    assert pauses[0] == 0
    assert 0 < pauses[1] < pauses[2]
    assert len(pauses) == 3
    assert len(kiwi.events("start")) == 4
    words = kiwi.text().partition("kiwi-id run: ")[2]
    assert "kanidmd ended 4 times in a row before or just after it was ready; giving up" in words
    assert words.count("  no good\n") == 4
    assert kiwi.logs(msg="child failed", level="error")


def test_a_hung_child_is_ended_with_its_group_and_restarted(kiwi: Kiwi) -> None:
    """A stopped process answers nothing: unhealthy first, then ended after health_check_timeout, with all of its group."""
    kiwi.set(health_check_timeout="1s")
    kiwi.behave({"grandchild": "group"}, {})
    kiwi.start_ready()
    child = kiwi.child_pid()
    os.kill(child, signal.SIGSTOP)
    kiwi.wait_log("child unhealthy")
    assert kiwi.get("/healthz")[0] == 503
    ending = kiwi.wait_log("ending the child to restart it", component="child")
    assert re.fullmatch(r"no successful probe for \d+ s", ending["reason"])
    kiwi.wait_log("child ready", 2)
    # It has its KILL before the next life begins; on a busy machine it dies of it only when it gets a core.
    eventually(lambda: not [event for event in kiwi.events(life=0) if alive(event["pid"])], "nothing of the group is left")
    assert kiwi.get("/x") == (200, "life 1")
    assert kiwi.get("/healthz")[0] == 200


def test_a_hung_child_that_ignores_term_is_killed(kiwi: Kiwi) -> None:
    """Neither the accept loop nor TERM gets through to it: KILL does."""
    kiwi.set(health_check_timeout="1s")
    kiwi.behave({"ignore_term": True}, {})
    kiwi.start_ready()
    os.kill(kiwi.child_pid(), signal.SIGSTOP)
    kiwi.wait_log("killing the child: it did not end in time")
    assert kiwi.wait_log("child backoff")["reason"] == "signal SIGKILL"
    kiwi.wait_log("child ready", 2)
    assert kiwi.events("signal")[0]["name"] == "SIGTERM"


def test_a_child_that_comes_back_in_time_is_left_alone(kiwi: Kiwi) -> None:
    """Stopped for less than health_check_timeout: unhealthy, then ready again, and still the same process."""
    kiwi.start_ready()
    child = kiwi.child_pid()
    os.kill(child, signal.SIGSTOP)
    kiwi.wait_log("child unhealthy")
    os.kill(child, signal.SIGCONT)
    kiwi.wait_log("child ready", 2)
    assert kiwi.child_pid() == child
    assert not kiwi.events("signal")


def test_a_binary_swapped_between_two_lives_is_refused(kiwi: Kiwi) -> None:
    """The binary is checked before each life: other bytes than the pinned ones are not started, and 78 says so in words."""
    kiwi.start_ready()
    binary = kiwi.places.upstream_bin
    scratch = binary.with_name("new")
    scratch.write_text(binary.read_text() + "# swapped\n")
    scratch.chmod(0o755)
    scratch.rename(binary)
    assert kiwi.get()[0] == 200
    os.kill(kiwi.child_pid(), signal.SIGKILL)
    assert kiwi.wait() == 78
    assert kiwi.logs(msg="child failed", reason="the binary cannot be started")
    words = kiwi.text().partition("kiwi-id run: ")[2]
    assert f"{binary}: found sha256:" in words
    assert "kiwi-id pin" in words
    assert len(kiwi.events("start")) == 1


def test_an_upgrade_that_was_pinned_is_started(kiwi: Kiwi) -> None:
    """After 'kiwi-id pin' the new binary is what the next life runs, without a restart of Kiwi ID."""
    kiwi.start_ready()
    with kiwi.places.upstream_bin.open("a") as file:
        file.write("# upgraded\n")
    assert kiwi.cli("pin").returncode == 0
    os.kill(kiwi.child_pid(), signal.SIGKILL)
    kiwi.wait_log("child ready", 2)
    assert kiwi.stop() == 0


def test_requests_during_crashes_are_answered(kiwi: Kiwi) -> None:
    """Clients that keep asking while the child is killed again and again get answers: a GET is not lost to a restart.

    One restart each: a GET is asked a second time only once, so the next kill waits until each client has been served anew.
    """
    kiwi.start_ready()
    done = threading.Event()
    answers: list[list[int]] = [[], [], []]

    def ask(mine: list[int]) -> None:
        while not done.is_set():
            mine.append(kiwi.get()[0])

    def served_anew() -> None:
        before = [len(mine) for mine in answers]
        eventually(
            lambda: all(len(mine) > old + 1 for mine, old in zip(answers, before, strict=True)), "two answers to each client"
        )

    clients = [threading.Thread(target=ask, args=(mine,)) for mine in answers]
    for client in clients:
        client.start()
    try:
        for life in range(2):
            served_anew()
            os.kill(kiwi.child_pid(), signal.SIGKILL)
            kiwi.wait_log("child ready", life + 2)
        served_anew()
    finally:
        done.set()
        for client in clients:
            client.join()
    assert {status for mine in answers for status in mine} == {200}
