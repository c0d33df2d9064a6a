"""kanidmd killed for lack of memory, or by somebody: the log says which, as far as the kernel tells."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from kiwi_id.oom import MemoryKills
from tests.supervisor.conftest import make  # noqa: F401 - a fixture
from tests.supervisor.kiwi import Kiwi, eventually


@pytest.mark.parametrize("where", ["group", "machine", "nothing"])
def test_what_the_kernel_counts_is_seen(tmp_path: Path, where: str) -> None:
    """A kill that the control group or, without one, the machine has counted since is told from one that nobody counted."""
    proc, group = tmp_path / "proc", tmp_path / "cgroup" / "service"
    (proc / "self").mkdir(parents=True)
    group.mkdir(parents=True)
    if where == "group":
        (proc / "self/cgroup").write_text("0::/service\n")
        (group / "memory.events").write_text("low 0\nmax 17\noom 1\noom_kill 1\noom_group_kill 0\n")
    if where != "nothing":
        (proc / "vmstat").write_text("nr_free_pages 1\noom_kill 5\n")
    kills = MemoryKills(proc, tmp_path / "cgroup")
    assert not kills.happened()
    if where == "group":
        (group / "memory.events").write_text("low 0\nmax 18\noom 2\noom_kill 2\noom_group_kill 0\n")
    elif where == "machine":
        (proc / "vmstat").write_text("nr_free_pages 1\noom_kill 6\n")
    assert kills.happened() == (where != "nothing")
    assert ("lack of memory meanwhile" in kills.explain()) == (where != "nothing")


def test_a_kill_from_elsewhere_is_told(make: Callable[..., Kiwi]) -> None:  # noqa: F811
    """After a KILL that Kiwi ID has not sent a line says so and from where it may come; after one of its own none does."""
    kiwi = make()
    kiwi.behave({"grandchild": "group"}, {"ignore_term": True})
    kiwi.start_ready()
    pid = kiwi.child_pid()
    os.kill(pid, signal.SIGKILL)
    told = kiwi.wait_log("the child was killed, and not by us")
    assert (told["pid"], told["level"]) == (pid, "warn")
    assert "kill -9" in told["why"] or "lack of memory" in told["why"]
    kiwi.wait_log("child ready", count=2)
    kiwi.set(shutdown_timeout="1s")
    assert kiwi.ask("reload")["ok"]
    assert kiwi.stop() == 0
    assert kiwi.logs(msg="killing the child: it did not end in time")
    assert len(kiwi.logs(msg="the child was killed, and not by us")) == 1


def test_a_kanidmd_that_lingers_at_its_end(make: Callable[..., Kiwi]) -> None:  # noqa: F811
    """One that somebody else told to end, that listens no more but is kept alive by a client, is replaced; no request is lost."""
    kiwi = make()
    kiwi.behave({"linger": 600}, {})
    kiwi.start_ready()
    with kiwi.connection() as held:
        held.request("GET", "/slow?s=0.5")  # keeps it alive as a slow client would
        kiwi.wait_event("request")
        os.kill(kiwi.child_pid(), signal.SIGTERM)
        bodies = []

        def next_life() -> bool:
            status, body = kiwi.get()
            assert status == 200
            bodies.append(body)
            return body == "life 1"

        eventually(next_life, "an answer of the next life")
        assert held.getresponse().status == 200
    assert [record["reason"] for record in kiwi.logs(msg="child restarting")] == ["it does not listen any more"]
    assert set(bodies) <= {"life 0", "life 1"}
    assert kiwi.stop() == 0
