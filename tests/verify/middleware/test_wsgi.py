"""The WSGI middleware by itself, held against the validator of the standard library, and behind a real server."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, make_server
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest

from kiwi_id.verify.wsgi import BearerMiddleware
from tests.verify.middleware.minted import VERIFIER, token

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer with the name of the caller, and with every key of the environ that tells of claims."""
    claims = environ["kiwi.claims"]
    body = json.dumps([claims and claims.name, sorted(key for key in environ if "kiwi" in key.lower())]).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


def call(guarded: WSGIApplication, **environ: Any) -> tuple[str, dict[str, str], bytes]:
    """Make one call that keeps to PEP 3333 on both sides, or fails; return status line, headers and body."""
    head: list[Any] = []

    def start_response(status: str, headers: list[tuple[str, str]], _exc_info: Any = None) -> Callable[[bytes], object]:
        head.extend((status, dict(headers)))
        return lambda _data: None

    environ["QUERY_STRING"] = ""
    setup_testing_defaults(environ)
    answer = validator(guarded)(environ, start_response)
    try:
        return head[0], head[1], b"".join(answer)
    finally:
        answer.close()  # type: ignore[attr-defined]  # the validator's own


def test_a_good_token_comes_through() -> None:
    """The application gets the claims."""
    status, _, body = call(BearerMiddleware(app, VERIFIER), HTTP_AUTHORIZATION=f"Bearer {token()}")
    assert status == "200 OK"
    assert json.loads(body)[0] == "Alice Demo"


@pytest.mark.parametrize(
    ("value", "status", "error"),
    [
        (None, "401 Unauthorized", ""),
        ("Bearer a.b.c", "401 Unauthorized", "invalid_token"),
        (f"Bearer {token(scope='openid')}", "403 Forbidden", "insufficient_scope"),
        (f"Bearer {token()},Bearer {token()}", "400 Bad Request", "invalid_request"),
    ],
)
def test_refusals(value: str | None, status: str, error: str) -> None:
    """Each refusal of RFC 6750 §3; a HEAD gets its headers without the body."""
    guarded = BearerMiddleware(app, VERIFIER, required_scopes=["mail_read"])
    environ = {} if value is None else {"HTTP_AUTHORIZATION": value}
    found, headers, body = call(guarded, **environ)
    assert found == status
    assert headers["www-authenticate"].startswith('Bearer realm="Kiwi ID"')
    assert (f'error="{error}"' in headers["www-authenticate"]) is bool(error)
    assert json.loads(body).get("error", "") == error
    found, headers, nothing = call(guarded, REQUEST_METHOD="HEAD", **environ)
    assert (found, headers["content-length"], nothing) == (status, str(len(body)), b"")


def test_paths_are_those_of_the_application() -> None:
    """Paths are matched without the prefix of the mount, as UTF-8; an empty one is the root."""
    guarded = BearerMiddleware(app, VERIFIER, anonymous_paths=["/grüße", "/"])
    assert call(guarded, SCRIPT_NAME="/mail", PATH_INFO="/grüße".encode().decode("latin-1"))[0] == "200 OK"
    assert call(guarded, SCRIPT_NAME="/mail", PATH_INFO="")[0] == "200 OK"
    assert call(guarded, SCRIPT_NAME="/mail", PATH_INFO="/grüße/x".encode().decode("latin-1"))[0] == "401 Unauthorized"


class Quiet(WSGIRequestHandler):
    """Does not write each request to standard error."""

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def serving(guarded: WSGIApplication) -> Iterator[http.client.HTTPConnection]:
    """Serve by the standard library's server; give a client."""
    with make_server("127.0.0.1", 0, guarded, handler_class=Quiet) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        client = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
        try:
            yield client
        finally:
            client.close()
            server.shutdown()
            thread.join()


def test_nothing_that_a_client_sends_becomes_claims() -> None:
    """Over a real socket: headers named like the key arrive under other names; the claims stay those of the token, or None."""
    forged = {"kiwi.claims": "root", "Kiwi-Claims": "root", "Kiwi_Claims": "root", "HTTP_kiwi.claims": "root"}
    with serving(BearerMiddleware(app, VERIFIER, optional_paths=["/"])) as client:
        client.request("GET", "/", headers=forged)
        name, keys = json.loads(client.getresponse().read())
        assert name is None
        assert keys.count("kiwi.claims") == 1
        assert len(keys) > 1  # they did arrive
        client.request("GET", "/", headers={**forged, "Authorization": f"Bearer {token()}"})
        assert json.loads(client.getresponse().read())[0] == "Alice Demo"


@pytest.mark.parametrize("first", ["Bearer", "Basic"])
def test_two_headers_over_a_real_socket(first: str) -> None:
    """A server that joins two Authorization headers does not hide them, whichever is first, and where none is needed, too."""
    with serving(BearerMiddleware(app, VERIFIER, optional_paths=["/"])) as client:
        client.putrequest("GET", "/")
        client.putheader("Authorization", f"Bearer {token()}" if first == "Bearer" else "Basic YTpi")
        client.putheader("Authorization", f"Bearer {token()}")
        client.endheaders()
        answer = client.getresponse()
        assert answer.status == 400
        assert "invalid_request" in str(answer.headers["www-authenticate"])
