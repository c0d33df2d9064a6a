"""The value types of config.toml: what is accepted means what it says, and nothing else is accepted or crashes."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kiwi_id import values
from kiwi_id.values import Address, Refused

UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1, "ms": 0.001}
ANYTHING = st.one_of(
    st.text(max_size=40), st.integers(), st.floats(), st.booleans(), st.none(), st.lists(st.text(max_size=5), max_size=3)
)


@given(st.dictionaries(st.sampled_from(list(UNITS)), st.integers(0, 999), min_size=1))
def test_duration_is_the_sum_of_its_parts(parts: dict[str, int]) -> None:
    """Any mix of units, largest first, adds up; so does the same with a fraction in one unit."""
    text = "".join(f"{parts[unit]}{unit}" for unit in UNITS if unit in parts)
    expected = sum(count * UNITS[unit] for unit, count in parts.items())
    assert math.isclose(values.duration(text), expected, abs_tol=1e-9)


@given(st.floats(min_value=0, max_value=1000).map(lambda number: round(number, 3)), st.sampled_from(["s", "m", "h"]))
def test_duration_with_a_fraction(number: float, unit: str) -> None:
    """A decimal fraction counts in its unit."""
    assert math.isclose(values.duration(f"{number:.3f}{unit}"), number * UNITS[unit], abs_tol=1e-6)


@pytest.mark.parametrize(
    "text", ["", "5", "s", "5 s", " 5s", "5s\n", "-1s", "1s1m", "5s5s", "1.s", ".5s", "1e3s", "5S", "٥s", "9" * 400 + "s"]
)
def test_duration_refuses_what_could_be_a_typo(text: str) -> None:
    """Missing, repeated and rising units, signs, spaces, exponents, other scripts' digits: refused, with examples."""
    with pytest.raises(Refused, match="5s"):
        values.duration(text)


def test_duration_bounds_are_told_in_units() -> None:
    """A value out of bounds is told with bounds a person reads."""
    with pytest.raises(Refused) as caught:
        values.duration("1ms", low=0.05, high=7200)
    assert caught.value.allowed.endswith("from 50ms to 2h")
    with pytest.raises(Refused) as caught:
        values.duration(5)
    assert caught.value.fix == 'Write it with a unit: "5s".'


@given(st.ip_addresses(), st.integers(0, 65535))
def test_every_ip_address_survives_a_round_trip(host: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> None:
    """What Address prints is what the parser reads, brackets for IPv6 included."""
    address = Address(str(host), port)
    assert values.address(str(address)) == address


@given(st.from_regex(r"[a-z][a-z0-9-]{0,20}(\.[a-z0-9]{1,10}){0,3}", fullmatch=True), st.integers(1, 65535))
def test_host_names_survive_a_round_trip(host: str, port: int) -> None:
    """A host name is kept as it is written."""
    assert values.address(f"{host}:{port}") == Address(host, port)


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("::1:8443", "brackets"),
        ("127.0.0.1", "port"),
        ("127.0.0.1:", "port"),
        ("127.0.0.1:65536", "port"),
        ("127.0.0.1:" + "1" * 5000, "port"),
        ("127.0.0.1:٨٠", "port"),
        ("[::1]", "port"),
        ("[::g]:80", "::g"),
        ("[127.0.0.1]:80", "IPv6 addresses only"),
        ("10.10.20:80", "10.10.20"),
        (":80", "host name"),
        ("-x:80", "host name"),
        ("a b:80", "host name"),
    ],
)
def test_addresses_are_refused_with_a_way_out(text: str, fix: str) -> None:
    """Each wrong address says what is wrong with it."""
    with pytest.raises(Refused) as caught:
        values.address(text)
    assert fix in caught.value.fix


def test_upstream_address() -> None:
    """https with host and port; the port defaults to HTTPS's."""
    assert values.https_address("https://127.0.0.1:8443") == Address("127.0.0.1", 8443)
    assert values.https_address("https://[::1]:8443/") == Address("::1", 8443)
    assert values.https_address("https://localhost") == values.https_address("https://localhost:") == Address("localhost", 443)


@pytest.mark.parametrize(
    "text",
    ["http://127.0.0.1:8443", "127.0.0.1:8443", "https://h:0", "https://h/p", "https://h?q", "https://[::1", "https://h:99999", ""],
)
def test_upstream_address_refuses(text: str) -> None:
    """Plain HTTP, paths, queries, unclosed brackets and impossible ports are refused, without a crash."""
    with pytest.raises(Refused):
        values.https_address(text)


@pytest.mark.parametrize(
    "text", ["https://me:geheim@h:1", "http://me:geheim@h", "https://me:geheim@h:99999", "https://a@me:geheim@[h"]
)
def test_a_password_in_an_address_is_not_repeated(text: str) -> None:
    """Errors end in logs, so they never show credentials."""
    with pytest.raises(Refused) as caught:
        values.https_address(text)
    assert "geheim" not in f"{caught.value} {caught.value.fix}"


@pytest.mark.parametrize(
    ("value", "expected"), [(4096, 4096), ("64KiB", 65536), ("30 MiB", 30 << 20), ("1GiB", 1 << 30), ("7B", 7), ("7", 7)]
)
def test_sizes(value: Any, expected: int) -> None:
    """Bytes as integers or with binary units."""
    assert values.size(value) == expected


@pytest.mark.parametrize("value", ["64KB", "-1", True, 1.5, "9" * 5000, "", -1])
def test_sizes_refused(value: Any) -> None:
    """Decimal units would be ambiguous; booleans and fractions are no sizes."""
    with pytest.raises(Refused):
        values.size(value)


def test_rates() -> None:
    """A rate is a number and a duration; the empty string is no limit."""
    assert values.optional_rate("24/8h") == values.Rate(24, 28800.0)
    assert values.optional_rate("1000000/1m30s") == values.Rate(1_000_000, 90.0)
    assert values.optional_rate("") is None


@pytest.mark.parametrize(
    "value", ["24", "24/", "/8h", "0/8h", "1000001/1s", "24/8", "24/500ms", "24/31d", "-1/1s", "2 / 1s", "٥/1s", 24]
)
def test_rates_refused(value: Any) -> None:
    """What is refused is told together with what is allowed."""
    with pytest.raises(Refused, match="24/8h"):
        values.optional_rate(value)


def test_networks() -> None:
    """Addresses and networks; a network with bits beyond its prefix is a mistake, told with the item."""
    assert values.networks(["10.10.20.1", "fd00:20::/64"]) == (
        ipaddress.ip_network("10.10.20.1/32"),
        ipaddress.ip_network("fd00:20::/64"),
    )
    with pytest.raises(Refused, match=r"10\.10\.20\.1/24"):
        values.networks(["10.10.20.1/24"])
    with pytest.raises(Refused):
        values.networks([7])


def test_paths() -> None:
    """Absolute only; the empty string means none where that is allowed."""
    assert values.path("/etc/kiwi") == Path("/etc/kiwi")
    assert values.optional_path("") is None
    for wrong in ("etc/kiwi", "", "/a\0b", 7):
        with pytest.raises(Refused):
            values.path(wrong)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true (boolean)"),
        ([False, "a"], '[false, "a"] (array)'),
        (1.5, "1.5 (float)"),
        pytest.param(16**9000, "a number of more than 4300 digits (integer)", id="huge"),
    ],
)
def test_what_was_found_is_shown_as_toml_spells_it(value: Any, text: str) -> None:
    """Not as Python does; and an integer that Python does not print is no crash (TOML's 0x… may have any length)."""
    assert values.shown(value) == text


@given(ANYTHING)
def test_no_parser_crashes(value: Any) -> None:
    """Whatever TOML can hold, a parser returns or raises Refused, and an error is one line without control characters."""
    parsers: list[Callable[[Any], object]] = [values.duration, values.size, values.address, values.https_address]
    parsers += [values.networks, values.optional_rate, values.path, values.optional_path, values.boolean, values.one_of("a", "b")]
    found = []
    for parser in parsers:
        try:
            parser(value)
        except Refused as refused:
            found.append(refused.found)
    assert not any("\n" in words or "\x1b" in words for words in found)
