"""Chosen client secrets at our own endpoints: we know a client by the secret that was chosen, Kanidm by the one that it has made.

A wrong secret is not refused here. Kanidm is asked with one that it cannot have made, and refuses it as it refuses any: so a wrong
secret, a client without a chosen one and a client that nobody knows are answered in the same words, by the same steps and in the
same time as without any of this. (Refusing at once would have told by its speed who has chosen a secret.)
"""

from __future__ import annotations

import hmac
import os
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import trio

from kiwi_id.errors import Problem
from kiwi_id.identities.secret_files import Chosen, Read, digest
from kiwi_id.issuer.http import Credentials
from kiwi_id.kanidm.oauth2 import Call, KanidmSecret, NotAccepted, OAuth2, Surprise
from kiwi_id.kanidm.token_file import NotBootstrapped, read_token
from kiwi_id.logs import Log
from kiwi_id.proxy.caller import Unavailable

log = Log("secrets")

Fetch = Callable[[str], Awaitable[str | None]]
# No secret has this digest, and Kanidm has never made this secret.
_NOBODYS = os.urandom(32)
_UNKNOWN = secrets.token_urlsafe(32)
# As many comparisons for each client: a current secret and one before it.
_COMPARED = 2


class NoAccount(Surprise):
    """Kanidm's own secret of a client cannot be had, for a reason that lies with us: the words say which, and what to do."""


@dataclass
class _Asked:
    """A question for Kanidm's secret of one client, and what came of it; neither when whoever asked was cancelled."""

    done: trio.Event = field(default_factory=trio.Event)
    answered: bool = False
    secret: KanidmSecret | None = None
    error: Exception | None = None


class ChosenSecrets:
    """The chosen secrets in force, and Kanidm's own of the same clients, in memory only. Outlives reloads.

    ``fetch`` asks Kanidm for its secret of a client. ``problems`` are the mistakes that the files had when they were read last.
    """

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._chosen: Chosen = {}
        self._kanidms: dict[str, KanidmSecret] = {}
        self._asked: dict[str, _Asked] = {}
        self.problems: list[Problem] = []

    @property
    def clients(self) -> frozenset[str]:
        """The clients that have chosen a secret."""
        return frozenset(self._chosen)

    def use(self, read: Read) -> list[str]:
        """Put what was read in force; return in words what has changed. A client whose file is broken keeps what it had.

        So do all when the state file has mistakes; then a client is only added, so that after a start nobody's chosen secret is
        forgotten for a mistake elsewhere.
        """
        self.problems = read.problems
        for problem in read.problems:
            log.error("a chosen client secret cannot be used", **problem.as_dict())
        if read.chosen is None:  # nobody knows who has chosen what
            return []
        old = self._chosen
        now = {name: old[name] if name in read.broken and name in old else candidates for name, candidates in read.chosen.items()}
        self._chosen = {**now, **old} if read.partial else now
        for name in self._kanidms.keys() - self._chosen.keys():
            del self._kanidms[name]
        changed = sorted(name for name in {*old, *self._chosen} if old.get(name) != self._chosen.get(name))
        if changed:
            log.info("chosen client secrets are in force", clients=sorted(self._chosen), changed=changed)
        return [f"the chosen secret of {name}" for name in changed]

    async def inward(self, who: Credentials) -> Credentials:
        """Return the credentials to ask Kanidm with: those that came, unless a secret was chosen for the client.

        Raises what ``fetch`` raises, for a client that has shown the right secret.
        """
        if not who.secret:
            return who
        right = self._matches(who.client_id, {who.secret, who.as_sent or who.secret})
        if who.client_id not in self._chosen:
            return who
        secret = await self._kanidms_own(who.client_id) if right else None
        return replace(who, secret=secret or _UNKNOWN, as_sent="")

    async def renew(self, client_id: str, refused: KanidmSecret) -> KanidmSecret | None:
        """Return Kanidm's secret of a client in place of one that Kanidm does not take any more; None when it is still the same.

        It was reset in Kanidm, or the client was made anew.
        """
        if self._kanidms.get(client_id) == refused:
            del self._kanidms[client_id]
        found = await self._kanidms_own(client_id)
        return None if found == refused else found

    def _matches(self, client_id: str, shown: set[str]) -> bool:
        """Compare with every candidate that counts now, to the end."""
        now = time.time()
        candidates = self._chosen.get(client_id, ())
        digests = [one.digest for one in candidates if one.until is None or now < one.until]
        digests += [_NOBODYS] * (_COMPARED - len(digests))
        right = False
        for form in shown:
            found = digest(form)
            for wanted in digests:
                right |= hmac.compare_digest(found, wanted)
        return right

    async def _kanidms_own(self, client_id: str) -> KanidmSecret | None:
        """Return Kanidm's secret of a client; whoever wants it while it is being asked for shares the answer, or the failure."""
        while (held := self._kanidms.get(client_id)) is None:
            asked = self._asked.get(client_id)
            if asked is None:
                return await self._ask(client_id)
            await asked.done.wait()
            if asked.error is not None:
                raise asked.error
            if asked.answered:
                return asked.secret
        return held

    async def _ask(self, client_id: str) -> KanidmSecret | None:
        asked = self._asked[client_id] = _Asked()
        try:
            found = await self._fetch(client_id)
            asked.answered = True
        except (Unavailable, Surprise) as error:
            asked.error = error
            raise
        finally:
            del self._asked[client_id]
            asked.done.set()
        if found is None:
            fix = "kiwi-id client show tells what it is in Kanidm; kiwi-id apply makes it what the state file says."
            log.warn("Kanidm has no secret of a client with a chosen one: it is missing, or public", client=client_id, fix=fix)
            return None
        asked.secret = self._kanidms[client_id] = KanidmSecret(found)
        return asked.secret


def from_kanidm(call: Call, token_file: Callable[[], Path]) -> Fetch:
    """Return what asks Kanidm as our own account, by the API token in a file (:mod:`kiwi_id.kanidm.token_file`).

    It raises what ``call`` raises, and NoAccount.
    """
    kanidm = OAuth2(call)

    async def fetch(client_id: str) -> str | None:
        file = token_file()
        try:
            token = await trio.to_thread.run_sync(_read_token, file, abandon_on_cancel=True)
            return await kanidm.client_secret(client_id, token)
        except NotAccepted as error:
            words = f"Kanidm does not let Kiwi ID's account ({file}) see it, {error}: kiwi-id bootstrap mends that"
        except NoAccount as error:
            words = str(error)
        log.error("Kanidm's own secret of a client with a chosen one cannot be had", client=client_id, error=words)
        raise NoAccount(words)

    return fetch


def _read_token(file: Path) -> str:
    try:
        token = read_token(file)
    except NotBootstrapped as error:
        raise NoAccount(str(error)) from None
    if token is None:
        raise NoAccount(f"Kiwi ID has no account in this Kanidm yet ({file} does not exist). Make it: kiwi-id bootstrap")
    return token
