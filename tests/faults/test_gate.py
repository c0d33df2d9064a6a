"""The gate on the running program: what waits while kanidmd is away, what never does, and what is said past the bounds."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.supervisor.conftest import make  # noqa: F401 - a fixture
from tests.supervisor.kiwi import Kiwi, eventually

Make = Callable[..., Kiwi]
NEVER_WAIT = (
    *("/livez", "/readyz", "/healthz"),
    *("/.well-known/openid-configuration", "/.well-known/oauth-authorization-server", "/oauth2/keys"),
)
PAGE = {"Accept": "text/html,application/xhtml+xml"}


def limit(kiwi: Kiwi, **limits: object) -> None:
    """Add a [limits] table to config.toml."""
    lines = "\n".join(f"{name} = {json.dumps(value)}" for name, value in limits.items())
    text = kiwi.config.read_text()
    head, found, tail = text.partition("\n[limits]\n")
    kiwi.config.write_text(f"{head}\n[limits]\n{lines}\n{tail}" if found else f"{text}\n[limits]\n{lines}\n")


@contextmanager
def away(kiwi: Kiwi) -> Iterator[None]:
    """Have kanidmd killed and its next life never ready."""
    kiwi.behave({}, {"never_ready": True})
    kiwi.start_ready()
    assert kiwi.ask("reload")["ok"]  # so everything is loaded
    os.kill(kiwi.child_pid(), signal.SIGKILL)
    kiwi.wait_event("start", life=1)
    eventually(lambda: kiwi.ask()["upstream"]["state"] == "starting", "the second life")
    yield
    assert kiwi.ask()["upstream"]["state"] == "starting"


@pytest.fixture
def kiwi(make: Make) -> Kiwi:  # noqa: F811
    """An instance whose requests wait for ever, if they wait."""
    kiwi = make()
    kiwi.set(health_check_timeout="10m")
    return kiwi


def test_what_needs_no_kanidmd_never_waits(kiwi: Kiwi) -> None:
    """Probes, discovery and the key set are answered while kanidmd is away; a request for kanidmd beside them still waits."""
    limit(kiwi, gate_timeout="10m")
    with away(kiwi):
        with kiwi.connection() as waiting:
            waiting.request("GET", "/status")
            eventually(lambda: kiwi.ask()["waiting"] == 1, "a request at the gate")
            for path in NEVER_WAIT:
                status, body = kiwi.get(path)
                assert status == (503 if path in ("/readyz", "/healthz") else 200)
                assert json.loads(body)
            assert kiwi.ask()["waiting"] == 1
        eventually(lambda: kiwi.ask()["waiting"] == 0, "its place given back")


def test_past_the_time_a_browser_gets_a_page_that_tries_again(kiwi: Kiwi) -> None:
    """After gate_timeout: 503 with Retry-After; for a browser a page, which comes back by itself if it was asked for by GET."""
    limit(kiwi, gate_timeout="100ms")
    with away(kiwi), kiwi.connection() as client:
        for path in ("/ui/login", "/oauth2/authorize?client_id=x&response_type=code&redirect_uri=https%3A%2F%2Fx.example%2F"):
            client.request("GET", path, headers=PAGE)
            answer = client.getresponse()
            assert (answer.status, answer.getheader("retry-after"), answer.getheader("refresh")) == (503, "2", "2")
            assert "tries again by itself" in answer.read().decode()
        client.request("POST", "/ui/login/pw", b"password=x", {**PAGE, "Content-Type": "application/x-www-form-urlencoded"})
        answer = client.getresponse()
        assert (answer.status, answer.getheader("retry-after"), answer.getheader("refresh")) == (503, "2", None)
        assert "Nothing was done" in answer.read().decode()
        client.request("GET", "/v1/self", headers={"Accept": "application/json"})
        answer = client.getresponse()
        assert (answer.status, answer.getheader("retry-after")) == (503, "2")
        assert json.loads(answer.read())["error"]["code"] == "upstream_unavailable"


@pytest.mark.parametrize(("limits", "fits"), [({"gate_requests": 3}, 3), ({"gate_bytes": 65536 * 3}, 3)], ids=["requests", "bytes"])
def test_past_the_bounds_nobody_waits(kiwi: Kiwi, limits: dict[str, int], fits: int) -> None:
    """So many requests, and so many bytes, wait; the next one is refused at once."""
    limit(kiwi, gate_timeout="10m", **limits)
    body = b"x" * 65000
    with away(kiwi):
        threads = []
        for number in range(1, fits + 1):
            threads.append(threading.Thread(target=post, args=(kiwi, body)))
            threads[-1].start()
            eventually(lambda number=number: kiwi.ask()["waiting"] == number, "one more at the gate")  # type: ignore[misc]
        with kiwi.connection() as client:
            client.request("POST", "/x", body, {"Accept": "application/json"})
            answer = client.getresponse()
            assert (answer.status, answer.getheader("retry-after")) == (503, "2")
        assert kiwi.ask()["waiting"] == fits
    assert kiwi.stop() == 0
    for thread in threads:
        thread.join()


def post(kiwi: Kiwi, body: bytes) -> None:
    """POST through the front; whatever comes of it."""
    with kiwi.connection() as client:
        client.request("POST", "/x", body)
        assert client.getresponse().status == 503


def test_a_login_click_during_a_crash_is_served(make: Make) -> None:  # noqa: F811
    """A request that comes while kanidmd starts again, be it a GET or a POST, is answered by the new one as if nothing had been."""
    kiwi = make()
    kiwi.behave({}, {"ready_after": 0.5})
    kiwi.start_ready()
    os.kill(kiwi.child_pid(), signal.SIGKILL)
    kiwi.wait_event("start", life=1)
    with kiwi.connection() as client, kiwi.connection() as other:
        client.request("POST", "/ui/login/begin", b"username=x")
        other.request("GET", "/ui/login")
        answers = [client.getresponse(), other.getresponse()]
        assert [(answer.status, answer.read()) for answer in answers] == [(200, b"life 1")] * 2
    assert kiwi.stop() == 0
