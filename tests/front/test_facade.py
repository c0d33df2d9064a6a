"""The Quart-Trio application behind the facade: requests in, answers out, and nothing of its failures."""

from __future__ import annotations

import logging

import pytest
import trio
from quart import Response, request
from quart_trio import QuartTrio

from kiwi_id.web.facade import MAX_BODY, Facade
from tests.front.conftest import Front, Lines

HOST = b"Host: id.example.com\r\n"


class Pages:
    """A front with an application; ``made`` counts how often it was made, ``told`` is what it saw."""

    def __init__(self, front: Front) -> None:
        self.front = front
        self.made = 0
        self.told: dict[str, object] = {}
        self.asked, self.go_on = trio.Event(), trio.Event()
        facade = Facade(self.make)
        front.ours.update(dict.fromkeys([b"/hello", b"/form", b"/boom", b"/wait", b"/none"], facade))

    def make(self) -> QuartTrio:
        """Return the application."""
        self.made += 1
        app = QuartTrio("pages", static_folder=None, template_folder=None)
        app.add_url_rule("/hello", view_func=self.hello)
        app.add_url_rule("/form", view_func=self.form, methods=["POST"])
        app.add_url_rule("/boom", view_func=self.boom)
        app.add_url_rule("/wait", view_func=self.wait)
        return app

    async def hello(self) -> Response:
        """Tell what is known of the request."""
        self.told = {"scheme": request.scheme, "client": request.remote_addr, "args": request.args.to_dict()}
        return Response("hello", headers={"set-cookie": "a=b"}, mimetype="text/plain")

    async def form(self) -> str:
        """Tell the form's field."""
        return str((await request.form).get("field"))

    async def boom(self) -> str:
        """Fail."""
        raise ZeroDivisionError("a secret detail")

    async def wait(self) -> str:
        """Answer late."""
        self.asked.set()
        await self.go_on.wait()
        return "x" * 100_000


@pytest.fixture
def pages(front: Front) -> Pages:
    """The application, not loaded yet."""
    return Pages(front)


async def test_the_application_is_made_once(pages: Pages) -> None:
    """Requests that come at once, before the application is loaded, wait for one loading and are all answered."""
    answers = []

    async def ask() -> None:
        answers.append((await pages.front.ask(b"GET /hello HTTP/1.1\r\n" + HOST + b"\r\n")).body)

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(ask)
    assert (answers, pages.made) == ([b"hello"] * 5, 1)


async def test_what_the_application_sees(pages: Pages) -> None:
    """The client that a trusted proxy vouches for, its scheme, the query; the answer has our request id and no HEAD a body."""
    pages.front.trust("127.0.0.1")
    client = await pages.front.connect()
    fields = b"X-Forwarded-For: 203.0.113.7\r\nX-Forwarded-Proto: https\r\nX-Request-Id: my-request-1\r\n"
    for method in ("GET", "HEAD"):
        reply = await client.ask(method.encode() + b" /hello?a=b HTTP/1.1\r\n" + HOST + fields + b"\r\n", method)
        assert (reply.status, reply.body) == (200, b"hello" if method == "GET" else b"")
        assert (reply.one(b"x-request-id"), reply.one(b"set-cookie")) == (b"my-request-1", b"a=b")
        assert pages.told == {"scheme": "https", "client": "203.0.113.7", "args": {"a": "b"}}


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 9\r\n\r\nfield=abc", b"Transfer-Encoding: chunked\r\n\r\n9\r\nfield=abc\r\n0\r\n\r\n"]
)
async def test_a_form(pages: Pages, framing: bytes) -> None:
    """A form arrives, with or without a length told."""
    head = b"POST /form HTTP/1.1\r\n" + HOST + b"Content-Type: application/x-www-form-urlencoded\r\n"
    assert (await pages.front.ask(head + framing)).body == b"abc"


async def test_a_form_that_is_too_large(pages: Pages) -> None:
    """A page's form has a bound of its own."""
    reply = await pages.front.ask(
        b"POST /form HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % (MAX_BODY + 1) + b"x" * (MAX_BODY + 1)
    )
    assert reply.status == 413


async def test_a_page_that_fails(pages: Pages, lines: Lines, caplog: pytest.LogCaptureFixture) -> None:
    """A page that raises is 500 without a word of why; the next one is served."""
    caplog.set_level(logging.CRITICAL + 1)
    reply = await pages.front.ask(b"GET /boom HTTP/1.1\r\n" + HOST + b"\r\n")
    assert reply.status == 500
    assert b"secret detail" not in reply.body
    assert (await pages.front.ask(b"GET /hello HTTP/1.1\r\n" + HOST + b"\r\n")).body == b"hello"
    assert [line["status"] for line in await lines.requests(2)] == [500, 200]
    assert (await pages.front.ask(b"GET /none HTTP/1.1\r\n" + HOST + b"\r\n")).status == 404


async def test_a_client_that_leaves_before_its_page(pages: Pages, lines: Lines) -> None:
    """An answer that nobody waits for any more ends its request and nothing else."""
    client = await pages.front.connect()
    await client.send(b"GET /wait HTTP/1.1\r\n" + HOST + b"\r\n")
    await pages.asked.wait()
    client.reset()
    pages.go_on.set()
    assert (await lines.requests(1))[0]["outcome"] == "client gone"
    assert (await pages.front.ask(b"GET /hello HTTP/1.1\r\n" + HOST + b"\r\n")).body == b"hello"
