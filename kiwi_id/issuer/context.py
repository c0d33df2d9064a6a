"""What every endpoint of the issuer works with: the issuer's name, its keys and boxes, the clients, and Kanidm behind it."""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

import trio

from kiwi_id.config_keys import ClientSettings
from kiwi_id.issuer.box import Sealer
from kiwi_id.issuer.chosen import ChosenSecrets
from kiwi_id.issuer.keys import KeySet
from kiwi_id.kanidm.oauth2 import Authorisation, Client, Invalid, OAuth2
from kiwi_id.protect.memory import Memory

CLIENT_CACHE_SECONDS = 20.0
REDIRECT_CACHE_SECONDS = 10.0
_MOST_CLIENTS = 512
# Wider than what Kanidm takes for a name (server/lib/src/value.rs, INAME_RE); nothing else is asked for, nor so logged by it.
_CLIENT_ID = re.compile(r"[A-Za-z0-9._@-]{1,128}")


@dataclass
class Context:
    """One configuration of the issuer; a reload makes a new one and swaps it in whole.

    ``issuer`` is the issuer URL; ``domain`` is Kanidm's, to which its cookies are bound; ``groups_claim`` is name, spn or uuid.
    """

    issuer: str
    domain: str
    groups_claim: str
    keys: KeySet
    clients: Mapping[str, ClientSettings]
    kanidm: OAuth2
    secrets: ChosenSecrets
    states: Sealer = field(init=False)
    parked: Sealer = field(init=False)
    codes: Sealer = field(init=False)
    tokens: Sealer = field(init=False)
    refreshes: Sealer = field(init=False)
    consents: Sealer = field(init=False)
    logouts: Sealer = field(init=False)
    hand_overs: Sealer = field(init=False)
    posted: Sealer = field(init=False)
    sessions: Sealer = field(init=False)
    _known: OrderedDict[str, tuple[float, Client]] = field(default_factory=OrderedDict)
    _redirects: Memory[tuple[str, str], bool] = field(default_factory=lambda: Memory(_MOST_CLIENTS, REDIRECT_CACHE_SECONDS))

    def __post_init__(self) -> None:
        """Derive a sealer for each purpose, so that a box of one can never be passed off as another's."""
        self.states = Sealer("authorization state", self.keys)
        self.parked = Sealer("parked state", self.keys)
        self.codes = Sealer("authorization code", self.keys)
        self.tokens = Sealer("access token", self.keys)
        self.refreshes = Sealer("refresh token", self.keys)
        self.consents = Sealer("consent page", self.keys)
        self.logouts = Sealer("logout page", self.keys)
        self.hand_overs = Sealer("page between", self.keys)
        self.posted = Sealer("posted request", self.keys)
        self.sessions = Sealer("clients of a browser session", self.keys)

    def settings(self, client_id: str) -> ClientSettings:
        """Return what config.toml says of a client; the defaults when it says nothing."""
        return self.clients.get(client_id, _DEFAULTS)

    async def client(self, client_id: str) -> Client | None:
        """Return what Kanidm knows of a client, or None. What is known is remembered for some seconds, because each login asks."""
        if not _CLIENT_ID.fullmatch(client_id):
            return None
        now = time.monotonic()
        known = self._known.get(client_id)
        if known is not None and known[0] > now:
            return known[1]
        client = await self.kanidm.client(client_id)
        if client is None:
            return None
        self._known[client_id] = (now + CLIENT_CACHE_SECONDS, client)
        self._known.move_to_end(client_id)
        while len(self._known) > _MOST_CLIENTS:
            self._known.popitem(last=False)
        return client

    async def authorise(self, parameters: dict[str, str], bearer: str = "") -> Authorisation:
        """Ask Kanidm for an authorization; see :meth:`OAuth2.authorise`. What it says of the redirect URI is remembered."""
        result = await self.kanidm.authorise(parameters, bearer)
        key = parameters["client_id"], parameters["redirect_uri"]
        self._redirects.put(key, not isinstance(result, Invalid), trio.current_time())
        return result

    def was_registered(self, client_id: str, redirect_uri: str) -> bool:
        """Tell whether Kanidm has known the redirect URI as this client's some seconds ago.

        Enough to send a browser on to Kanidm's own login, which judges the same request anew; not enough to send anything to that
        address, for which Kanidm is asked each time.
        """
        return self._redirects.get((client_id, redirect_uri), trio.current_time()) is True


_DEFAULTS = ClientSettings()
