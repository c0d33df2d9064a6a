"""Kiwi ID's own account in Kanidm: made once, with the least rights, and its API token kept for everything later.

The first password of an instance can only come from the admin socket, which resets an account: whoever used it before is locked
out. So that is done when nobody can be using it (Kanidm says of an account that it has no credential at all), or when a person
has asked for it, and never otherwise. From then on the token serves, and no administrator is reset again.

The token lies beside the signing key, with mode 0600, and is not encrypted: a key for it would lie in the same directory for the
same user, and one made from the signing key would be lost when that is rotated. Not beside the database: that directory may be
closed to us (``upstream_user``).
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import trio

from kiwi_id.config import Config
from kiwi_id.errors import ConfigError, Exit, KiwiError, Problem
from kiwi_id.instance import owners, turns
from kiwi_id.instance.files import write_atomic
from kiwi_id.kanidm import accounts
from kiwi_id.kanidm.admin import recover_account
from kiwi_id.kanidm.pin import client_context
from kiwi_id.kanidm.rest import Kanidm, KanidmRefused, LoginDenied
from kiwi_id.kanidm.server_toml import ServerToml
from kiwi_id.kanidm.token_file import NotBootstrapped, read_token
from kiwi_id.logs import Log

log = Log("bootstrap")

ACCOUNT = "kiwi_id"
"""The name of our service account."""
ADMINISTRATOR = "idm_admin"
"""The account that makes it. Kanidm's other one, ``admin``, is for the system and is never touched."""
GROUPS = (
    "idm_people_admins",
    "idm_group_admins",
    "idm_oauth2_admins",
    "idm_service_account_admins",
    "idm_account_policy_admins",
    "idm_unix_admins",
)
"""What the account is a member of. Found by trying: without any one of them something that ``kiwi-id`` does is refused."""
LABEL = "kiwi-id"
PATIENCE = 60.0
"""Seconds for which a bootstrap waits for another one."""


class AnotherBootstrap(KiwiError):
    """Another one is at work and does not come to its end. Exit code 69: try again."""

    exit_code = Exit.UNAVAILABLE


class ConsentNeeded(NotBootstrapped):
    """An administrator would have to be reset, and nobody has agreed to it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was found or made.

    ``recovered``: the administrator's password was reset. ``missing``: groups of :data:`GROUPS` that the account is not in.
    ``others``: further API tokens of the account, None when they were not looked at.
    """

    action: Literal["kept", "made"]
    token_file: Path
    recovered: bool = False
    missing: tuple[str, ...] = ()
    others: int | None = None
    account: str = ACCOUNT

    def as_dict(self) -> dict[str, Any]:
        """Return everything as a JSON-ready mapping."""
        return asdict(self) | {"token_file": str(self.token_file)}


@dataclass(frozen=True, slots=True)
class Standing:
    """How it stands with our account after a start: there (``kept``, ``made``), or why not. ``again``: that may pass by itself."""

    state: Literal["kept", "made", "consent needed", "failed"]
    error: str = ""
    again: bool = False
    missing: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return it JSON-ready."""
        return {"state": self.state, "error": self.error, "missing_groups": list(self.missing)}


@asynccontextmanager
async def open_kanidm(config: Config, server: ServerToml) -> AsyncIterator[Kanidm]:
    """Open a REST client that acts as our service account.

    Raises NotBootstrapped (no token, one that this user may not read, or one that Kanidm does not accept), KanidmUnreachable.
    """
    token = read_token(config.kanidm_token)
    if token is None:
        raise NotBootstrapped(
            f"Kiwi ID has no account in this Kanidm yet ({config.kanidm_token} does not exist). Make it: kiwi-id bootstrap"
        )
    async with _connect(config, server) as kanidm:
        kanidm.use_token(token)
        if await _groups(kanidm) is None:
            raise NotBootstrapped(
                f"Kanidm does not accept the token in {config.kanidm_token}: it was revoked, or belongs to another database. "
                "Make a new one: kiwi-id bootstrap --ask-password, or --recover"
            )
        yield kanidm


async def bootstrap(
    config: Config, server: ServerToml, *, recover: bool = False, password: str | None = None, revoke_others: bool = False
) -> Outcome:
    """Make our account and its token, or find that they are there; safe to repeat, at the same time too, and after a crash.

    ``recover``: consent to reset the administrator, and to make the token anew. ``password``: the administrator's, which is then
    used and not reset. ``revoke_others``: revoke all other tokens of the account. Raises ConsentNeeded, LoginDenied,
    AdminSocketUnavailable, KanidmUnreachable, KanidmRefused, AnotherBootstrap, ConfigError (files).
    """
    async with _alone(config):
        if not recover and password is None and (kept := await _kept(config, server)) is not None:
            return kept
        return await _make(config, server, password, recover=recover, revoke_others=revoke_others)


@asynccontextmanager
async def _alone(config: Config) -> AsyncIterator[None]:
    """Keep others out until the end: to another one, an administrator that this one has just reset would look used by a person."""
    descriptor = turns.opened(config, "bootstrap")
    try:
        with trio.move_on_after(PATIENCE) as waiting:
            while True:
                if turns.taken(descriptor):
                    break
                await trio.sleep(0.05)
        if waiting.cancelled_caught:
            raise AnotherBootstrap(f"Another 'kiwi-id bootstrap' has been at work for {PATIENCE:g} s. Try again when it has ended.")
        yield
    finally:
        os.close(descriptor)


async def _kept(config: Config, server: ServerToml) -> Outcome | None:
    """Return how it stands with the account when there is a token that Kanidm accepts."""
    if (token := read_token(config.kanidm_token)) is None:
        return None
    async with _connect(config, server) as kanidm:
        kanidm.use_token(token)
        if (groups := await _groups(kanidm)) is None:
            return None
    return Outcome("kept", config.kanidm_token, missing=tuple(group for group in GROUPS if group not in groups))


async def _make(config: Config, server: ServerToml, password: str | None, *, recover: bool, revoke_others: bool) -> Outcome:
    file = config.kanidm_token
    async with _connect(config, server) as kanidm:
        recovered = await _sign_in(kanidm, config, server, password, recover=recover)
        made = await accounts.create_service_account(kanidm, ACCOUNT, "Kiwi ID", managed_by="idm_admins")
        for group in GROUPS:
            await kanidm.add_members(group, ACCOUNT)
        before = [] if made else await accounts.api_tokens(kanidm, ACCOUNT)
        _write(file, await accounts.make_api_token(kanidm, ACCOUNT, LABEL) + "\n", config)
        if revoke_others:
            for other in before:
                await accounts.revoke_api_token(kanidm, ACCOUNT, other.token_id)
            before = []
    _begun(config).unlink(missing_ok=True)
    return Outcome("made", file, recovered, others=len(before))


async def at_start(config: Config, server: ServerToml) -> Standing:
    """Do what ``bootstrap = true`` asks for at a start; return how it stands with our account.

    Nothing that goes wrong here is a reason to end: people log in as before. It is logged with what to do, unless it may pass by
    itself (``again``): then the caller tries once more, and tells.
    """
    try:
        outcome = await bootstrap(config, server)
    except ConsentNeeded as error:  # an instance that was set up by hand: no fault
        log.warn("Kiwi ID has no account in Kanidm", error=str(error))
        return Standing("consent needed", str(error))
    except KiwiError as error:
        again = may_pass(error)
        if not again:
            log.error("Kiwi ID has no account in Kanidm", error=str(error))
        return Standing("failed", str(error), again)
    if outcome.action == "made":
        log.info("made Kiwi ID's account in Kanidm", account=ACCOUNT, token_file=str(outcome.token_file))
    return Standing(outcome.action, missing=outcome.missing)


def may_pass(error: KiwiError) -> bool:
    """Tell whether trying again may help: Kanidm was not reached, or was about to end."""
    return error.exit_code == Exit.UNAVAILABLE or (isinstance(error, KanidmRefused) and error.status >= 500)


def _connect(config: Config, server: ServerToml) -> Kanidm:
    return Kanidm(f"https://{config.upstream_addr}", client_context(server.tls_chain))


async def _groups(kanidm: Kanidm) -> frozenset[str] | None:
    """Return the groups of the account whose token is used, None when Kanidm does not accept it."""
    try:
        return await accounts.groups_of_self(kanidm)
    except KanidmRefused as refused:
        if refused.status in (401, 404):  # 404: the account itself is gone
            return None
        raise


async def _sign_in(kanidm: Kanidm, config: Config, server: ServerToml, password: str | None, *, recover: bool) -> bool:
    """Sign in as the administrator; return whether its password was reset for that. Raises ConsentNeeded."""
    if password is not None:
        await kanidm.login(ADMINISTRATOR, password)
        return False
    begun = _read_begun(config)
    if begun is not None and begun.password:
        try:
            await kanidm.login(ADMINISTRATOR, begun.password)
        except LoginDenied:  # somebody has set another one since
            _begun(config).unlink(missing_ok=True)
            begun = None
        else:
            return True
    # Asked with consent, too: a Kanidm that cannot be reached must not be reset for nothing.
    never_used = await accounts.is_never_used(kanidm, ADMINISTRATOR)
    if not (never_used or recover):
        if begun is not None:  # whether it was that one's reset cannot be told from here, only by who has set none
            raise ConsentNeeded(
                f"A bootstrap was cut off{begun.when} while Kanidm made a new password for '{ADMINISTRATOR}', so it most likely "
                "has one that nobody knows. If nobody has set one since, finish it: kiwi-id bootstrap --recover. "
                "If somebody has, sign in with that: kiwi-id bootstrap --ask-password"
            )
        raise ConsentNeeded(
            f"Somebody has set a password or passkey for '{ADMINISTRATOR}', so it is not reset without your word. Sign in with it: "
            f"kiwi-id bootstrap --ask-password. Or have it reset, which ends what it signs in with now: kiwi-id bootstrap --recover"
        )
    # Before anything is reset it must be known that what comes of it can be kept.
    _write(_begun(config), json.dumps({"asked": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"}) + "\n", config)
    password = await recover_account(server.admin_socket, ADMINISTRATOR)
    _write(_begun(config), json.dumps({"password": password}) + "\n", config)
    await kanidm.login(ADMINISTRATOR, password)
    return True


def _begun(config: Config) -> Path:
    """Return the file that holds the new password while the work lasts, so that a crash in it needs no second reset."""
    return config.kanidm_token.with_name("kanidm-token.begun")


@dataclass(frozen=True, slots=True)
class _Begun:
    """A reset that was asked for: its time in words, and what came of it, if that was still written down."""

    password: str = ""
    when: str = ""


def _read_begun(config: Config) -> _Begun | None:
    text = read_token(_begun(config))
    if text is None:
        return None
    try:
        note = json.loads(text)
        return _Begun(str(note.get("password", "")), f" at {note['asked']}" if "asked" in note else "")
    except (ValueError, AttributeError):
        return _Begun()


def _write(file: Path, text: str, config: Config) -> None:
    """Write a secret, for the user alone that the signing key belongs to: root may be at work here, and Kiwi ID be another."""
    try:
        write_atomic(file, text.encode(), 0o600, owners.of(config.jwt_private_key))
    except OSError as error:
        raise _unusable(error, file) from None


def _unusable(error: OSError, file: Path) -> ConfigError:
    fix = "Run this as root or as the user that Kiwi ID runs as."
    return ConfigError(
        [Problem(str(error.filename or file), "", error.strerror or str(error), "a place that can be written to", fix)]
    )
