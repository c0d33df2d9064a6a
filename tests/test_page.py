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
