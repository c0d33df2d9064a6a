"""One look for every page of ours, whichever part of Kiwi ID answers."""

from __future__ import annotations

import re

from kiwi_id import page
from kiwi_id.issuer import http
from kiwi_id.proxy import pages


def _style(body: bytes) -> str:
    (style,) = re.findall(r"<style>(.*?)</style>", body.decode(), re.DOTALL)
    return str(style)


def test_the_fronts_and_the_issuers_pages_look_alike() -> None:
    """The same style sheet, with its dark colours, and the same skeleton around another text."""
    _, front = pages.error(503, "starting", "Wait.", request_id=b"abc", html_wanted=True, retry_after=1)
    issuer = http.page(400, "No", "<p>Not so.</p>").body
    assert _style(front) == _style(issuer)
    assert "prefers-color-scheme: dark" in _style(front)
    assert front.partition(b"<title>")[0] == issuer.partition(b"<title>")[0]


def test_what_a_document_holds() -> None:
    """The title is text, twice; the content is HTML; what belongs behind it comes last."""
    text = page.document("<a> & b", "<p>c</p>", tail="<script>d</script>").decode()
    assert "<title>&lt;a&gt; &amp; b</title>" in text
    assert "<h1>&lt;a&gt; &amp; b</h1>\n<p>c</p>\n</main><script>d</script></body>" in text


def test_every_page_is_sent_with_the_same_protection() -> None:
    """Front and issuer: nothing may be loaded, run, framed, guessed, kept or told to the next site; each field once."""
    front, _ = pages.error(400, "bad", "No.", request_id=b"abc", html_wanted=True)
    for headers in (front, http.page(200, "Yes", "<p>So.</p>").headers):
        names = [name for name, _ in headers]
        assert len(set(names)) == len(names)
        sent = dict(headers)
        policy = dict(part.strip().partition(b" ")[::2] for part in sent[b"content-security-policy"].split(b";"))
        assert policy == {
            b"default-src": b"'none'",
            b"style-src": b"'unsafe-inline'",
            b"script-src": b"'none'",
            b"form-action": b"'none'",
            b"frame-ancestors": b"'none'",
            b"base-uri": b"'none'",
        }
        assert sent[b"x-content-type-options"] == b"nosniff"
        assert sent[b"x-frame-options"] == b"DENY"
        assert sent[b"referrer-policy"] == b"no-referrer"
        assert sent[b"cross-origin-resource-policy"] == b"same-origin"
        assert sent[b"cache-control"] == b"no-store"
        # A login in a window of its own would lose the window that waits for it.
        assert b"cross-origin-opener-policy" not in sent


def test_a_page_with_a_script_names_it() -> None:
    """What a page needs is opened for it alone, and for nothing else."""
    answer = http.page(200, "Go", "<form></form>", form_action="https:", script="go()", script_hash="aGFzaA==")
    policy = dict(answer.headers)[b"content-security-policy"]
    assert b"script-src 'sha256-aGFzaA=='; form-action https:; " in policy
    assert b"script-src 'none'" not in policy


def test_json_is_not_guessed_and_not_kept() -> None:
    """A program's refusal is no page, and a browser that is shown it takes it for nothing else."""
    headers, _ = pages.error(503, "starting", "Wait.", request_id=b"abc", html_wanted=False, retry_after=1)
    assert {b"cache-control": b"no-store", b"x-content-type-options": b"nosniff", b"retry-after": b"1"}.items() <= dict(
        headers
    ).items()
    told = pages.too_many_connections("too_many_connections")
    head, _, body = told.partition(b"\r\n\r\n")
    assert b"\r\ncontent-length: %d\r\n" % len(body) in head
    assert b"\r\ncache-control: no-store\r\n" in head
