"""The list of Kanidm's known faults: which version has which, how long each is supported, and that the documentation agrees."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from kiwi_id import compatibility
from kiwi_id.status import advisories, notices
from kiwi_id.status.notices import Notice

ROOT = Path(__file__).parent.parent.parent
CRITICAL = "GHSA-xxwr-vvr3-2g9f"


@pytest.mark.parametrize(
    ("version", "there"),
    [
        *(("1.5.0", False), ("1.6.4", False), ("1.7.0", True), ("1.8.6", True), ("1.9.3", True), ("1.9.4", False)),
        *(("1.10.0", True), ("1.10.1", True), ("1.10.2", False), ("1.10.5", False), ("1.11.1", False), ("1.12.0-dev", False)),
    ],
)
def test_ranges(version: str, there: bool) -> None:
    """Numbers are compared as numbers, the end of a range is mended, and 1.9's mended release does not mend 1.10.0."""
    found = {one.id for one in advisories.load().for_version(version, ldap=True)}
    assert (CRITICAL in found) is there


def test_what_needs_ldap_is_told_with_ldap_only() -> None:
    """An instance whose LDAP listener is off has no fault of it; the worst comes first."""
    known = advisories.load()
    without, with_ldap = (known.for_version("1.5.0", ldap=ldap) for ldap in (False, True))
    assert {one.id for one in with_ldap} - {one.id for one in without} == {
        "GHSA-qcxq-75wr-5cm8",
        "ldap-query-parsing",
        "ldap-buffer-size",
    }
    assert with_ldap[0].severity == "high"
    ranks = [advisories.SEVERITIES.index(one.severity) for one in with_ldap]
    assert ranks == sorted(ranks, reverse=True)


def test_support_lasts_four_months() -> None:
    """From the first release of the minor version; of one that the list does not know nothing is said."""
    known = advisories.load()
    assert known.supported_until("1.5.0") == date(2025, 6, 9)
    assert known.supported_until("1.8.6") == date(2026, 3, 12)
    assert known.supported_until("1.99.0") is None


def of(version: str, day: datetime, *, ldap: bool = False) -> dict[str, Notice]:
    """Return the notices about a version on a day, by their codes."""
    return {notice.code: notice for notice in notices.of_version(version, day, ldap=ldap)}


def test_notices_about_a_version() -> None:
    """Unsupported is a warning from the day after; the way to a newer one is told step by step; an unknown one is left alone."""
    found = of("1.5.0", datetime(2026, 11, 1, tzinfo=UTC))
    assert "1.6, 1.7, 1.8, 1.9." in found["kanidm_unsupported"].fix
    assert "5 known faults, the worst moderate" in found["kanidm_advisories"].text
    assert f"(list of {advisories.load().date})" in found["kanidm_advisories"].text
    assert "kanidm_unsupported" not in of("1.5.0", datetime(2025, 6, 9, 23, tzinfo=UTC))
    assert "kanidm_unsupported" in of("1.5.0", datetime(2025, 6, 10, tzinfo=UTC))
    assert "allow_untested" in of("1.10.5", datetime(2027, 1, 1, tzinfo=UTC))["kanidm_unsupported"].fix
    assert of("1.99.0", datetime(2030, 1, 1, tzinfo=UTC)) == {}


def test_every_entry_is_whole() -> None:
    """Ranges have an order and an end that is mended, sources and words are there, and the tested versions are known."""
    known = advisories.load()
    assert len({one.id for one in known.advisories}) == len(known.advisories)
    for one in known.advisories:
        assert one.severity in advisories.SEVERITIES
        assert one.what
        assert one.source
        for low, high in one.affected:
            assert not low or advisories.numbers(low) < advisories.numbers(high)
            assert high in one.fixed
            assert not one.affects(high)
    for version in (*compatibility.tested_versions(), known.newest):
        assert known.supported_until(version) is not None


def test_the_documentation_lists_them_all() -> None:
    """docs/status.md has a row for each, in the list's order, and says of when the list is."""
    text = (ROOT / "docs" / "status.md").read_text(encoding="utf-8")
    known = advisories.load()
    rows = re.findall(r"^\| `([\w-]+)` \| (\w+) \| (.+?) \| (.+?) \| (.+?) \|$", text, re.MULTILINE)
    expected = []
    for one in known.advisories:
        ranges = ", ".join(f"{low} to below {high}" if low else f"below {high}" for low, high in one.affected)
        needs = f"{one.what} ({'with LDAP only' if one.needs else 'any'})"
        expected.append((one.id, one.severity, needs.removesuffix(" (any)"), ranges, ", ".join(one.fixed)))
    assert rows == expected
    assert f"as of {known.date}" in text
