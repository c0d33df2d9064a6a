"""The policy: who is held back by what, who is spared, and that nobody's failures shut out somebody who is known."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from kiwi_id.config import PROTECTION_KEYS, Protection
from kiwi_id.protect.ledger import KNOWN_FOR, LOGINS, TOKENS, TWENTIETH, Attempt, Ledger, Over, place_of
from kiwi_id.values import Rate

USUAL = Protection(**{name: key.parse(key.default) for name, key in PROTECTION_KEYS.items()})
OFF = Protection(**dict.fromkeys(PROTECTION_KEYS))
HERE, THERE = "192.0.2.7", "198.51.100.9"
DAY = 86400.0
UUID = "0e8f2a6c-6a5e-4d0a-9d5f-0c4c1b4f0c11"


def _fail(ledger: Ledger, client: str, *names: str) -> Over | None:
    """Try once, wrongly; return the refusal when there is one."""
    attempt = ledger.attempt(client, names)
    if isinstance(attempt, Over):
        return attempt
    attempt.failed()
    return None


def _pass(ledger: Ledger, client: str, *names: str) -> Over | None:
    attempt = ledger.attempt(client, names)
    if isinstance(attempt, Over):
        return attempt
    attempt.passed()
    return None


def _failures_let_through(ledger: Ledger, clock: MockClock, seconds: float, step: float, client: str, name: str) -> int:
    count, ends = 0, clock.current_time() + seconds
    while clock.current_time() < ends:
        count += _fail(ledger, client, name) is None
        clock.jump(step)
    return count


async def test_one_address_cannot_use_up_kanidms_hundred_a_day(mock_clock: MockClock) -> None:
    """With the defaults, whoever tries all day from one address gets fewer wrong passwords through than lock an account.

    After a hundred in a day Kanidm locks it until midnight, UTC (server/lib/src/credential/softlock.rs).
    """
    ledger = Ledger(LOGINS, USUAL)
    assert 24 <= _failures_let_through(ledger, mock_clock, DAY, 20.0, HERE, "alice") < 100
    assert _failures_let_through(ledger, mock_clock, DAY, 20.0, HERE, "alice") < 100


async def test_many_addresses_cannot_either(mock_clock: MockClock) -> None:
    """A hundred addresses that are new to an account together get fewer than a hundred through in a day."""
    ledger, count = Ledger(LOGINS, USUAL), 0
    for minute in range(24 * 60):
        count += _fail(ledger, f"198.51.100.{minute % 100}", "alice") is None
        mock_clock.jump(60.0)
    assert 48 <= count < 100
    _fail(ledger, "203.0.113.1", "alice")  # the one that the last minutes may have earned
    over = _fail(ledger, "203.0.113.1", "alice")
    assert isinstance(over, Over)
    assert (over.limit, over.name) == ("login_failures_per_account", "alice")


async def test_a_uuid_adds_next_to_nothing(mock_clock: MockClock) -> None:
    """One address, and many together, stay below a hundred a day also when they name the account by its UUID as well."""
    for clients in ([HERE], [f"198.51.100.{number}" for number in range(100)]):
        ledger, count = Ledger(LOGINS, USUAL), 0
        for turn in range(24 * 60):
            client = clients[turn % len(clients)]
            count += _fail(ledger, client, "alice") is None
            count += _fail(ledger, client, UUID) is None
            mock_clock.jump(60.0)
        assert 48 <= count < 100, clients[:2]


async def test_uuids_of_all_accounts_at_an_address_share_their_tries(mock_clock: MockClock) -> None:
    """What is left for UUIDs is little, and none may pay for another's; whoever uses the own name does not notice."""
    ledger = Ledger(LOGINS, USUAL)
    others = [f"{number:08x}{UUID[8:]}" for number in range(9)]
    assert sum(_fail(ledger, HERE, name) is None for name in others) == 2
    over = _pass(ledger, HERE, UUID)
    assert isinstance(over, Over)
    assert (over.limit, over.name) == ("login_failures_per_account_and_address", UUID)
    assert _pass(ledger, HERE, "alice") is None
    assert _pass(ledger, THERE, UUID) is None


async def test_a_uuid_that_is_right_is_never_held_back(mock_clock: MockClock) -> None:
    """A program that logs in by UUID costs nothing, and is known: neither neighbours nor strangers elsewhere shut it out."""
    ledger = Ledger(LOGINS, USUAL)
    for _ in range(100):
        assert _pass(ledger, HERE, UUID) is None
    for number in range(9):
        _fail(ledger, HERE, f"{number:08x}{UUID[8:]}")
        _fail(ledger, THERE, UUID)
    assert _pass(ledger, HERE, UUID) is None
    assert isinstance(_pass(ledger, "203.0.113.1", UUID), Over)


async def test_uuids_without_limits(mock_clock: MockClock) -> None:
    """Where accounts are not limited, their UUIDs are not, at once and after a reload; clients that look like one never are."""
    ledger, tokens = Ledger(LOGINS, USUAL), Ledger(TOKENS, replace(USUAL, token_failures_per_client=None))
    for _ in range(9):
        _fail(ledger, HERE, UUID)
        assert _fail(tokens, HERE, UUID) is None
    assert isinstance(_fail(ledger, HERE, UUID), Over)
    ledger.change(OFF)
    assert _fail(ledger, HERE, UUID) is None


async def test_who_is_known_is_not_shut_out_by_strangers(mock_clock: MockClock) -> None:
    """Failures elsewhere, and those of others behind the same address, do not hold back who has logged in there before."""
    ledger = Ledger(LOGINS, USUAL)
    assert _pass(ledger, HERE, "alice") is None
    for number in range(200):
        _fail(ledger, f"198.51.100.{number}", "alice")
    assert isinstance(_fail(ledger, THERE, "alice"), Over)
    assert _pass(ledger, HERE, "alice") is None
    for number in range(1000):
        _fail(ledger, HERE, f"pupil-{number}")
    over = _pass(ledger, HERE, "bob")
    assert isinstance(over, Over)
    assert (over.limit, over.name) == ("login_failures_per_address", "")
    assert _pass(ledger, HERE, "alice") is None
    # … but her own failures there do, so that a neighbour may not guess for ever either.
    for _ in range(24):
        assert _fail(ledger, HERE, "alice") is None
    over = _pass(ledger, HERE, "alice")
    assert isinstance(over, Over)
    assert over.limit == "login_failures_per_account_and_address"
    mock_clock.jump(over.seconds)
    assert _pass(ledger, HERE, "alice") is None


async def test_known_for_a_month(mock_clock: MockClock) -> None:
    """Who has not been there for longer is a stranger again; each success begins the month anew."""
    ledger = Ledger(LOGINS, replace(USUAL, login_failures_per_address=Rate(1, 86400.0 * 400)))
    _pass(ledger, HERE, "alice")
    mock_clock.jump(KNOWN_FOR - 1)
    assert _pass(ledger, HERE, "alice") is None
    _fail(ledger, HERE, "bob")
    mock_clock.jump(KNOWN_FOR - 1)
    assert _pass(ledger, HERE, "alice") is None
    mock_clock.jump(KNOWN_FOR + 1)
    assert isinstance(_pass(ledger, HERE, "alice"), Over)


async def test_a_school_logs_in_at_once(mock_clock: MockClock) -> None:
    """A thousand people behind one address, of whom every fifth mistypes once, all get in within a minute."""
    ledger = Ledger(LOGINS, USUAL)
    for number in range(1000):
        name = f"pupil-{number}"
        first = ledger.attempt(HERE, (name,))
        assert isinstance(first, Attempt)
        first.void(TWENTIETH)
        if number % 5 == 0:
            assert _fail(ledger, HERE, name) is None
        assert _pass(ledger, HERE, name) is None
        mock_clock.jump(0.06)


async def test_at_once_is_no_more_than_in_a_row(mock_clock: MockClock) -> None:
    """Tries whose end is not known yet count already, so that parallel guesses at many accounts get no further."""
    ledger = Ledger(LOGINS, USUAL)
    attempts = [ledger.attempt(HERE, (f"user-{number}",)) for number in range(1000)]
    running = [attempt for attempt in attempts if isinstance(attempt, Attempt)]
    assert len(running) == 300
    for attempt in running[:10]:
        attempt.void()
    running[10].passed()
    for attempt in running[11:]:
        attempt.failed()
    again = [ledger.attempt(HERE, (f"user-{number}",)) for number in range(1000)]
    assert sum(isinstance(attempt, Attempt) for attempt in again) == 11 + 1  # and user-10, who is known
    mock_clock.jump(12.0)
    assert isinstance(ledger.attempt(HERE, ("carol",)), Attempt)


async def test_a_busy_relying_party_is_never_cut(mock_clock: MockClock) -> None:
    """Any number of token requests that succeed pass, whatever others fail; and so do those of who has begun to succeed."""
    ledger = Ledger(TOKENS, USUAL)
    assert _pass(ledger, HERE, "wiki") is None
    for _ in range(5000):
        _fail(ledger, HERE, "broken")
        assert _pass(ledger, HERE, "wiki") is None
    over = _fail(ledger, HERE, "broken")
    assert isinstance(over, Over)
    assert over.limit == "token_failures_per_client"
    for _ in range(5000):
        mallory = ledger.attempt(THERE, ("wiki",))
        if isinstance(mallory, Attempt):
            mallory.failed()
    assert _pass(ledger, HERE, "wiki") is None
    running = [ledger.attempt(HERE, ("wiki",)) for _ in range(5000)]
    assert all(isinstance(attempt, Attempt) for attempt in running)


async def test_who_names_two_proves_none(mock_clock: MockClock) -> None:
    """A request that could be for either of two accounts is charged to both, and makes neither known."""
    ledger = Ledger(LOGINS, USUAL)
    _pass(ledger, HERE, "mallory", "alice")
    for _ in range(24):
        assert _fail(ledger, HERE, "mallory", "alice") is None
    for name in ("alice", "mallory"):
        over = _pass(ledger, HERE, name)
        assert isinstance(over, Over)
        assert over.name == name
    assert _pass(ledger, HERE, "bob") is None


async def test_an_attempt_ends_once(mock_clock: MockClock) -> None:
    """Whatever is called after the first word is too late."""
    ledger = Ledger(LOGINS, replace(USUAL, login_failures_per_address=Rate(1, 3600.0)))
    attempt = ledger.attempt(HERE, ("alice",))
    assert isinstance(attempt, Attempt)
    attempt.failed()
    attempt.void()
    attempt.passed()
    assert isinstance(ledger.attempt(HERE, ("alice",)), Over)
    assert ledger.failures == 1


async def test_no_limits(mock_clock: MockClock) -> None:
    """All limits off: nobody is refused, and nothing is kept but who is known."""
    ledger = Ledger(LOGINS, OFF)
    assert all(_fail(ledger, HERE, "alice") is None for _ in range(1000))
    assert len(ledger) == 0
    ledger.change(replace(OFF, login_failures_per_account=Rate(1, 60.0)))
    assert _fail(ledger, HERE, "alice") is None
    over = _fail(ledger, THERE, "alice")
    assert isinstance(over, Over)
    assert over.limit == "login_failures_per_account"


async def test_a_flood_does_not_grow(mock_clock: MockClock) -> None:
    """Tens of thousands of addresses and names leave a fixed number of entries, and a success is kept like any other."""
    ledger = Ledger(LOGINS, USUAL, most=100)
    for number in range(20_000):
        client = f"2001:db8:{number % 65536:x}::1"
        _fail(ledger, client, f"user-{number}")
        _pass(ledger, client, f"owner-{number}")
    assert len(ledger) <= 400


@pytest.mark.parametrize(
    ("client", "place"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("::1", "::/64"),
        ("", ""),
        ("@socket", "@socket"),
    ],
)
def test_places(client: str, place: str) -> None:
    """IPv6 is counted by /64, IPv4 in IPv6's clothes as IPv4, and what is no address as it is."""
    assert place_of(client) == place


@given(st.integers(1 << 96, (1 << 128) - 1), st.integers(0, (1 << 64) - 1))
def test_a_household_is_one_place(address: int, host: int) -> None:
    """All addresses of a /64 are one place, and the next network is another."""
    first, other = IPv6Address(address), IPv6Address((address >> 64 << 64) + host)
    assert place_of(str(first)) == place_of(str(other))
    assert place_of(str(first)) != place_of(str(IPv6Address(address ^ (1 << 64))))
