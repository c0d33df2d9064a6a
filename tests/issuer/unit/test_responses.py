"""issuer/responses.py: code or error on its way to the relying party, in each response mode, whatever the state holds."""

from __future__ import annotations

import html
import re
from urllib.parse import parse_qsl, urlsplit

import pytest

from kiwi_id.issuer import responses
from tests.issuer.unit.issuer import ISSUER, World, header

STATES = [
    "plain",
    "a&b=c#d?e",
    '"><script>alert(1)</script>',
    "é\U0001f95d",
    "\x00\r\nSet-Cookie: x=1",
    "%41+ %",
    "'onclick='x",
    "a" * 5000,
]
URIS = ["https://app.example/cb", "https://app.example/cb?tenant=7&x=a%20b", "com.example.app:/cb"]


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("uri", URIS)
@pytest.mark.parametrize("mode", responses.MODES)
def test_the_state_comes_back_as_it_was(mode: str, uri: str, state: str) -> None:
    """RFC 6749 §4.1.2: the exact value; and nothing in it breaks out of header or page. RFC 9207: ``iss`` beside it."""
    answer = responses.authorization_response(World().ctx, uri, mode, state, {"code": "c"})
    if mode == "form_post":
        page = answer.body.decode()
        fields = re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)">', page)
        found = {html.unescape(name): html.unescape(value) for name, value in fields}
        action = re.search(r'action="([^"]+)"', page)
        assert action
        assert html.unescape(action[1]) == uri
        assert page.count("<script>") == 1
        assert "<script>alert" not in page
    else:
        location = header(answer, "location")
        assert location.isascii()
        assert not re.search(r"[\s<>\"]", location)
        assert location.startswith(uri)
        parts = urlsplit(location)
        found = dict(parse_qsl(parts.fragment if mode == "fragment" else parts.query, keep_blank_values=True))
        if "?" in uri:
            assert location.startswith(uri + ("#" if mode == "fragment" else "&"))
    assert (found["code"], found["state"], found["iss"]) == ("c", state, ISSUER)


def test_without_a_state_there_is_none() -> None:
    """A state that was not sent is not made up."""
    answer = responses.authorization_response(World().ctx, URIS[0], "query", None, {"error": "access_denied"})
    assert header(answer, "location") == f"{URIS[0]}?error=access_denied&iss=https%3A%2F%2Fid.example"


def test_the_form_posts_itself_by_the_one_script_allowed() -> None:
    """The policy names the script by its hash, and lets the form go to the relying party and nowhere be framed."""
    answer = responses.form_post(URIS[0], {"code": "c"})
    policy = header(answer, "content-security-policy")
    assert f"script-src 'sha256-{responses._SUBMIT_HASH}'" in policy
    assert "frame-ancestors 'none'" in policy
    assert header(answer, "cache-control") == "no-store"


def test_the_page_between_leads_on() -> None:
    """Where a redirect would be blocked by Kanidm's form-action: a refresh, and a link that is escaped."""
    answer = responses.hand_over("http://localhost:1/cb", "query", {"state": '"&<'})
    assert header(answer, "refresh") == "0; url=http://localhost:1/cb?state=%22%26%3C"
    assert b'href="http://localhost:1/cb?state=%22%26%3C"' in answer.body
    assert "location" not in {name.decode() for name, _ in answer.headers}


def test_a_mistake_page_leads_nowhere() -> None:
    """Escaped, status 400, no form, no link, no redirect: it can never be used as an open redirect."""
    answer = responses.mistake("T", '<a href="https://evil.example">x</a>')
    assert answer.status == 400
    assert b"<a " not in answer.body
    assert b"<form" not in answer.body
    assert not {b"location", b"refresh"} & {name for name, _ in answer.headers}
