"""The planned restart: by command and by a reload after a change, under load, and everything that can come in between."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kiwi_id import compatibility, config
from tests.supervisor.kiwi import Kiwi, eventually

Make = Callable[..., Kiwi]


def _restart(kiwi: Kiwi) -> dict[str, Any]:
    done = kiwi.cli("restart-upstream", "--json")
    outcome: dict[str, Any] = json.loads(done.stdout)
    assert (done.returncode == 0) is outcome["ok"]
    return outcome


class Load:
    """GETs on kept and fresh connections and POSTs, each with a number of its own, from several threads at once."""

    def __init__(self, kiwi: Kiwi) -> None:
        self.kiwi = kiwi
        self.answers: Counter[tuple[str, object]] = Counter()
        self.posted: list[str] = []
        self._over = threading.Event()
        self._lock = threading.Lock()

    def _note(self, kind: str, outcome: object) -> None:
        with self._lock:
            self.answers[kind, outcome] += 1

    def _keep_getting(self) -> None:
        with self.kiwi.connection() as connection:
            while not self._over.is_set():
                try:
                    connection.request("GET", "/kept")
                    answer = connection.getresponse()
                    answer.read()
                    self._note("kept", answer.status)
                except OSError as error:
                    self._note("kept", repr(error))

    def _get(self) -> None:
        while not self._over.is_set():
            try:
                self._note("fresh", self.kiwi.get()[0])
            except OSError as error:
                self._note("fresh", repr(error))

    def _post(self, name: str) -> None:
        count = 0
        with self.kiwi.connection() as connection:
            while not self._over.is_set():
                count += 1
                with self._lock:
                    self.posted.append(f"{name}-{count}")
                try:
                    connection.request("POST", "/slow?s=0.01", body=f"{name}-{count}")
                    answer = connection.getresponse()
                    answer.read()
                    self._note("post", answer.status)
                except OSError as error:
                    self._note("post", repr(error))

    def served(self) -> int:
        """How many requests have been answered with 200."""
        with self._lock:
            return sum(count for (_, outcome), count in self.answers.items() if outcome == 200)

    def more(self, count: int) -> None:
        """Wait until so many more have been answered with 200."""
        wanted = self.served() + count
        eventually(lambda: self.served() >= wanted, f"{count} more good answers; so far {self.answers}")

    @contextmanager
    def running(self) -> Iterator[Load]:
        """Keep it going for the time of the block."""
        targets = [self._keep_getting, self._keep_getting, self._get, self._get]
        threads = [threading.Thread(target=target) for target in targets]
        threads += [threading.Thread(target=self._post, args=(name,)) for name in ("a", "b", "c")]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._over.set()
            for thread in threads:
                thread.join()


def test_no_request_is_lost_or_sent_twice(kiwi: Kiwi) -> None:
    """Five restarts under load: every GET and POST is answered with 200, and each POST reached kanidmd exactly once.

    Each life but the last gets one TERM and ends by it; nothing counts as a failure.
    """
    kiwi.start_ready()
    load = Load(kiwi)
    with load.running():
        for life in range(1, 6):
            load.more(50)
            outcome = _restart(kiwi)
            assert outcome["restart"]["cut"] == 0
            assert outcome["restart"]["pid"] == kiwi.child_pid()
            assert kiwi.events("start")[-1]["life"] == life
        load.more(50)
    assert {outcome for _, outcome in load.answers} == {200}, load.answers
    assert Counter(event["content"] for event in kiwi.events("post")) == Counter(load.posted)
    assert kiwi.child_signals() == ["SIGTERM"] * 5
    assert kiwi.ask()["upstream"]["restarts"] == 0
    assert kiwi.stop() == 0


def test_what_is_in_flight_ends_with_the_old_and_what_comes_goes_to_the_next(kiwi: Kiwi) -> None:
    """A POST that runs is answered by the life that got it; a request that comes in the hold waits, and is by the next.

    One that comes before the hold, which begins after a quarter of shutdown_timeout when the POST runs for so long, does not wait.
    """
    kiwi.set(shutdown_timeout="16s")
    kiwi.start_ready()
    answers: dict[str, tuple[int, str]] = {}

    def post() -> None:
        with kiwi.connection() as connection:
            connection.request("POST", "/slow?s=6.5", body="once")
            answer = connection.getresponse()
            answers["post"] = (answer.status, answer.read().decode())

    threads = [threading.Thread(target=post), threading.Thread(target=lambda: _restart(kiwi))]
    threads[0].start()
    kiwi.wait_event("request")
    threads[1].start()
    kiwi.wait_log("restarting the child")
    assert kiwi.get("/hello") == (200, "life 0")
    eventually(lambda: kiwi.ask()["upstream"]["state"] == "restarting", "the hold")
    assert kiwi.get("/readyz")[0] == 503
    assert kiwi.get("/hello") == (200, "life 1")
    for thread in threads:
        thread.join()
    assert answers == {"post": (200, "life 0")}
    assert [event["content"] for event in kiwi.events("post")] == ["once"]


def test_a_request_that_does_not_end_is_cut_and_told(kiwi: Kiwi) -> None:
    """The drain is bounded: a request that takes longer than half of shutdown_timeout is cut, and the command says so."""
    kiwi.set(shutdown_timeout="2s")
    kiwi.start_ready()
    with kiwi.connection() as connection:
        connection.request("POST", "/slow?s=60", body="x")
        kiwi.wait_event("request")
        done = kiwi.cli("restart-upstream")
        assert done.returncode == 0
        assert "1 requests did not end in time and were cut" in done.stdout
        assert connection.getresponse().status == 502
    assert kiwi.logs(msg="requests did not end in time and are cut", requests=1)
    assert kiwi.get() == (200, "life 1")


def test_who_asked_and_has_gone_is_told_in_the_log(kiwi: Kiwi) -> None:
    """A restart-upstream that is killed while it waits changes nothing of the restart; that nobody heard how it ended is a line."""
    kiwi.start_ready()
    with kiwi.connection() as connection:
        connection.request("POST", "/slow?s=1", body="x")
        kiwi.wait_event("request")
        with socket.socket(socket.AF_UNIX) as asking:
            asking.connect(str(kiwi.places.runtime_dir / "control.sock"))
            asking.sendall(b'{"command": "restart_upstream"}\n')
            kiwi.wait_log("restarting the child")
        assert connection.getresponse().status == 200
    told = kiwi.wait_log("nobody waits for the answer any more; what was asked for has been done")
    assert (told["command"], told["ok"]) == ("restart_upstream", True)
    assert kiwi.get() == (200, "life 1")


def test_steps_of_a_login_that_has_begun_pass_before_the_restart(kiwi: Kiwi) -> None:
    """A login in progress would die with kanidmd: while it goes on, its steps are served by the old one, others wait.

    The steps are those by page, by cookie and by the header of the API, one after another.
    """
    kiwi.start_ready()
    restart = threading.Thread(target=lambda: _restart(kiwi))
    others: list[tuple[int, str]] = []
    other = threading.Thread(target=lambda: others.append(kiwi.get("/hello")))
    restart.start()
    kiwi.wait_log("restarting the child")
    other.start()
    eventually(lambda: kiwi.ask()["waiting"], "the other request at the gate")
    steps: list[tuple[str, dict[str, str]]] = [
        ("/ui/login/pw", {}),
        ("/ui/oauth2/consent", {}),
        ("/x", {"Cookie": "a=b; auth-session-id=x"}),
        ("/v1/auth", {"X-KANIDM-AUTH-SESSION-ID": "x"}),
    ]
    assert [kiwi.get(path, headers) for path, headers in steps] == [(200, "life 0")] * 4
    restart.join()
    other.join()
    assert others == [(200, "life 1")]


@pytest.mark.parametrize("change", ["binary", "database", "config"])
def test_what_is_refused_changes_nothing(kiwi: Kiwi, change: str) -> None:
    """A binary that is not the pinned one, a database that is not ours, a broken config: 78, why, and kanidmd goes on."""
    kiwi.start_ready()
    child = kiwi.child_pid()
    if change == "binary":
        with kiwi.places.upstream_bin.open("a") as file:
            file.write("# swapped\n")
        said = "kiwi-id pin"
    elif change == "database":
        server = kiwi.places.upstream_config
        server.write_text(server.read_text().replace("kanidm.db", "other.db"))
        said = "db_path"
    else:
        kiwi.set(log_level="loud")
        said = "log_level"
    done = kiwi.cli("restart-upstream")
    assert done.returncode == 78
    assert "Not restarted: kanidmd serves on as before" in done.stderr
    assert said in done.stderr
    assert kiwi.child_pid() == child
    assert kiwi.child_signals() == []
    assert kiwi.get() == (200, "life 0")


def _upgrade(kiwi: Kiwi) -> None:
    """Replace the binary in one step, as a package manager does."""
    binary = kiwi.places.upstream_bin
    new = binary.with_name("new")
    new.write_text(binary.read_text() + "# another\n")
    new.chmod(0o755)
    new.replace(binary)


def test_a_reload_restarts_on_a_change_when_it_may(kiwi: Kiwi) -> None:
    """With restart_upstream_on_change a HUP restarts kanidmd after a change of server.toml or binary, and only then.

    Without a change kanidmd gets its HUP. The changed binary must be pinned first: until then the reload is refused.
    """
    kiwi.set(restart_upstream_on_change="=true")
    kiwi.start_ready()
    assert kiwi.ask("reload")["child_reloaded"] is True
    kiwi.wait_event("signal", name="SIGHUP")
    with kiwi.places.upstream_config.open("a") as file:
        file.write("# changed\n")
    kiwi.signal(signal.SIGHUP)
    kiwi.wait_log("restarted the child")
    kiwi.wait_log("reloaded", restarted=True)
    _upgrade(kiwi)
    refused = kiwi.ask("reload")
    assert refused["ok"] is False
    assert "kiwi-id pin" in refused["problems"][0]["fix"]
    assert kiwi.get() == (200, "life 1")
    compatibility.write_pin(config.load(kiwi.config))
    assert kiwi.ask("reload")["restart"]["ok"] is True
    assert kiwi.get() == (200, "life 2")
    assert kiwi.ask("reload")["child_reloaded"] is True
    eventually(lambda: len(kiwi.child_signals()) >= 4, "the second HUP")
    assert kiwi.child_signals() == ["SIGHUP", "SIGTERM", "SIGTERM", "SIGHUP"]


def test_a_reload_without_permission_does_not_restart(kiwi: Kiwi) -> None:
    """By default a reload leaves the process alone, whatever has changed."""
    kiwi.start_ready()
    child = kiwi.child_pid()
    with kiwi.places.upstream_config.open("a") as file:
        file.write("# changed\n")
    _upgrade(kiwi)
    outcome = kiwi.ask("reload")
    assert (outcome["ok"], outcome["restart"]) == (True, None)
    assert kiwi.child_pid() == child


def test_a_next_one_that_does_not_come_is_told(kiwi: Kiwi) -> None:
    """The command answers 69 when the next kanidmd is not ready in time; from there on the restart policy has it."""
    kiwi.set(health_check_timeout="1s")
    kiwi.behave({}, {"never_ready": True}, {})
    kiwi.start_ready()
    done = kiwi.cli("restart-upstream")
    assert done.returncode == 69
    assert "was not ready within 1 s after the restart" in done.stderr
    kiwi.wait_log("child ready", 2)
    assert kiwi.get() == (200, "life 2")


def test_a_kanidmd_that_ends_again_and_again_is_told_as_that(kiwi: Kiwi) -> None:
    """Who waits for the next kanidmd hears that it has been given up, and how it ended; not that a time is over which is not."""
    kiwi.set(restart_limit="=2", health_check_timeout="10m")
    kiwi.behave({}, {"exit": 3})
    kiwi.start_ready()
    done = kiwi.cli("restart-upstream")
    assert done.returncode == 69
    assert "kanidmd did not come back (last: exit code 3) and is not started any more" in done.stderr
    assert kiwi.wait() == 69


def test_a_crash_during_the_drain_is_a_restart(kiwi: Kiwi) -> None:
    """A kanidmd that dies while it is being drained is followed by the next as ever; the command waits for that one."""
    kiwi.set(shutdown_timeout="16s")
    kiwi.start_ready()
    child = kiwi.child_pid()
    outcomes: list[dict[str, Any]] = []
    restart = threading.Thread(target=lambda: outcomes.append(_restart(kiwi)))
    with kiwi.connection() as connection:
        connection.request("GET", "/slow?s=60")
        kiwi.wait_event("request")
        restart.start()
        eventually(lambda: kiwi.ask()["upstream"]["state"] == "restarting", "the drain")
        os.kill(child, signal.SIGKILL)
        restart.join()
    assert outcomes[0]["ok"] is True
    assert outcomes[0]["restart"]["pid"] == kiwi.child_pid() != child
    # Who sees the end first, the child's task or the drain, decides whether it counts as a crash or as planned.
    assert kiwi.ask()["upstream"]["restarts"] in (0, 1)


@pytest.mark.parametrize("by_hup", [True, False], ids=["hup", "command"])
def test_a_stop_during_the_drain_ends_in_order(kiwi: Kiwi, by_hup: bool) -> None:
    """TERM while a restart waits for a request: that request and one that is held are answered, and the exit code is 0."""
    kiwi.set(restart_upstream_on_change="=true", shutdown_timeout="10s")
    kiwi.start_ready()
    with kiwi.places.upstream_config.open("a") as file:
        file.write("# changed\n")
    statuses: list[int] = []
    threads = [threading.Thread(target=lambda path=path: statuses.append(kiwi.get(path)[0])) for path in ("/slow?s=5", "/held")]
    threads[0].start()
    kiwi.wait_event("request")
    ask = threading.Thread(target=lambda: by_hup or kiwi.cli("restart-upstream"))
    ask.start()
    if by_hup:
        kiwi.signal(signal.SIGHUP)
    eventually(lambda: kiwi.ask()["upstream"]["state"] == "restarting", "the drain")
    threads[1].start()
    eventually(lambda: kiwi.ask()["waiting"], "a request that is held")
    assert kiwi.stop() == 0
    for thread in [*threads, ask]:
        thread.join()
    assert statuses == [200, 200]


def test_restarts_asked_for_at_once_come_one_after_another(kiwi: Kiwi) -> None:
    """Three commands at the same time: three restarts, each answered with a process that was there."""
    kiwi.start_ready()
    outcomes: list[dict[str, Any]] = []
    threads = [threading.Thread(target=lambda: outcomes.append(_restart(kiwi))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pids = {event["pid"] for event in kiwi.events("start")}
    assert {outcome["restart"]["pid"] for outcome in outcomes} <= pids
    assert len(pids) == 4
    assert kiwi.child_signals() == ["SIGTERM"] * 3


def test_a_restart_after_a_hup_does_not_wait_for_a_lost_term(make: Make, binary: Path) -> None:
    """kanidmd 1.5.0 loses a TERM within 5 s of a HUP. It serves on for that time, instead of keeping clients waiting."""
    kiwi = make(binary, health_check_timeout="20s")
    kiwi.start_ready()
    assert kiwi.ask("reload")["child_reloaded"] is True
    outcome = _restart(kiwi)
    assert outcome["ok"] is True
    assert kiwi.get("/status") == (200, "true")
    # What a lost TERM leads to: the child gets three seconds, less than what it is deaf for.
    assert not kiwi.logs(msg="killing the child: it did not end in time")
    assert re.search(r"restarts +0 unplanned, 1 planned", kiwi.cli("status").stdout)
