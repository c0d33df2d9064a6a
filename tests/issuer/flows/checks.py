"""What several tests look for in an answer of the token endpoint and its neighbours."""

from __future__ import annotations

import base64

import httpx


def refused(answer: httpx.Response, error: str, status: int = 400) -> bool:
    """Tell whether this is an error as RFC 6749 §5.2 has it, and nothing of it may be cached."""
    assert answer.headers["content-type"] == "application/json", answer.text
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["pragma"] == "no-cache"
    assert set(answer.json()) == {"error", "error_description"}
    if answer.status_code == 401:
        assert answer.headers["www-authenticate"].startswith("Basic realm=")
    assert (answer.status_code, answer.json()["error"]) == (status, error), answer.text
    return True


def basic(name: str, secret: str) -> dict[str, str]:
    """Return the header of HTTP Basic, with the halves as they are."""
    return {"authorization": "Basic " + base64.b64encode(f"{name}:{secret}".encode()).decode()}
