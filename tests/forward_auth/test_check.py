"""``kiwi-id check`` knows of forward-auth what would stop a start."""

from __future__ import annotations

from pathlib import Path

import pytest

from kiwi_id import devserver
from kiwi_id.instance import layout
from kiwi_id.instance.checks import Finding, check


@pytest.fixture
def places(tmp_path: Path) -> layout.Places:
    """The files of an instance over the stand-in."""
    devserver.install(tmp_path / "kanidmd")
    layout.create(tmp_path / "i", layout.Options(upstream_bin=tmp_path / "kanidmd", domain="id.example.com"))
    return layout.Places.under(tmp_path / "i")


def found(places: layout.Places, *lines: str) -> list[Finding]:
    """Return what is said of forward-auth with these lines in config.toml."""
    text = places.config.read_text()
    places.config.write_text("\n".join([*lines, text]))
    try:
        return [finding for finding in check(places.config) if finding.area == "forward-auth"]
    finally:
        places.config.write_text(text)


def test_what_is_told(places: layout.Places) -> None:
    """Nothing when it is off; its client and hosts when all is well; the file and the domain that will not do."""
    lines = [
        'trusted_proxies = ["10.0.0.1"]',
        'forward_auth_client = "fa"',
        'forward_auth_hosts = ["wiki.example.com", "files.example.com"]',
    ]
    assert found(places) == []
    [good] = found(places, *lines, 'forward_auth_domain = "example.com"')
    assert (good.status, good.message) == ("ok", "client fa, for wiki.example.com, files.example.com")
    [lost] = found(places, *lines, 'forward_auth_secret_file = "/nowhere/secret"')
    assert lost.status == "wrong"
    assert lost.problem is not None
    assert (lost.problem.where, lost.problem.fix) == (
        "/nowhere/secret",
        "Write it: (umask 077; kiwi-id client secret NAME > FILE)",
    )
    lines[2] = 'forward_auth_hosts = ["wiki.example.org"]'
    [outside] = found(places, *lines, 'forward_auth_domain = "example.org"')
    assert outside.problem is not None
    assert outside.problem.key == "forward_auth_domain"
