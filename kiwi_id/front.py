"""The front, assembled: pool, gate, forwarder, the facade's probes, the issuer, the router over them, and the listener.

The supervisor starts and stops what is made here; what a reload changes of it is offered as ``prepare`` steps.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import trio

from kiwi_id import descriptors
from kiwi_id.config import Config
from kiwi_id.errors import Problem
from kiwi_id.plan import Plan
from kiwi_id.protect.handlers import TOKEN_PATHS, LoginGuard
from kiwi_id.proxy.caller import Caller
from kiwi_id.proxy.connection import Settings
from kiwi_id.proxy.exchange import Exchange, Handler
from kiwi_id.proxy.forwarder import Forwarder
from kiwi_id.proxy.gate import RETRY_AFTER, Gate
from kiwi_id.proxy.guard import Guard
from kiwi_id.proxy.listener import Listener, tls_context
from kiwi_id.proxy.pool import Pool
from kiwi_id.proxy.router import Router
from kiwi_id.proxy.rules import Headers
from kiwi_id.state import ChildStatus
from kiwi_id.web.facade import Facade
from kiwi_id.web.probes import Probes

if TYPE_CHECKING:
    from kiwi_id.forward_auth.endpoints import ForwardAuth
    from kiwi_id.identities.secret_files import Read
    from kiwi_id.issuer.chosen import ChosenSecrets
    from kiwi_id.issuer.context import Context
    from kiwi_id.issuer.service import Service
    from kiwi_id.kanidm.server_toml import ServerToml
    from kiwi_id.web.issuer import IssuerHandler

# Pages for people, served by the Quart-Trio application (kiwi_id/web/app.py, which is not imported here: it loads Quart).
PAGES = (b"/oauth2/consent", b"/oauth2/logout")
ISSUER = (
    *(b"/.well-known/openid-configuration", b"/.well-known/oauth-authorization-server"),
    *(b"/oauth2/authorize", b"/oauth2/continue"),
    *(b"/oauth2/token", b"/oauth2/userinfo", b"/oauth2/introspect", b"/oauth2/revoke", b"/oauth2/keys"),
    *(b"/oauth2/token/introspect", b"/oauth2/token/revoke"),
)
KANIDM_LOGOUT = b"/ui/logout"
# Where Kanidm's pages take up an authorization request, before and after the login.
KANIDM_LOGIN = (b"/ui/oauth2", b"/ui/oauth2/resume")
# Kanidm has nothing below /auth/; without forward_auth_client they pass through to its 404.
FORWARD_AUTH = (b"/auth/verify", b"/auth/login", b"/auth/callback", b"/auth/logout")


class Front:
    """Everything between a client's connection and kanidmd."""

    def __init__(self, plan: Plan, status: ChildStatus, *, draining: Callable[[], bool]) -> None:
        self._plan, self._status = plan, status
        self.settings = _settings(plan.config, plan.server)
        self.pool = Pool(plan.config.upstream_addr, plan.pin, size=self.settings.limits.upstream_connections)
        status.on_exit.append(self.pool.child_ended)
        self.gate = Gate(status, self._current)
        self._caller = Caller(self.pool, self.gate, self._current)
        self.facade = Facade(self._make_app)
        self._loaded = trio.Event()
        self._issuer: IssuerHandler
        self.secrets: ChosenSecrets
        self._token_file: Path
        self._service: Service
        self._forward_auth: ForwardAuth | None = None
        self._forwarder = Forwarder(self.pool, self.gate, self._current, self._redirected)
        self.login_guard = LoginGuard(plan.config.protection, self._forwarder)
        probes = Probes(status, draining)
        ours: dict[bytes, Handler] = {
            **dict.fromkeys(probes.paths, probes),
            **dict.fromkeys(PAGES, self._show_page),
            **dict.fromkeys(ISSUER, self._issue),
            **dict.fromkeys(TOKEN_PATHS, self.login_guard.before_tokens(self._issue)),
            **self.login_guard.routes(),
            **dict.fromkeys(FORWARD_AUTH, self._ask_forward_auth),
            KANIDM_LOGOUT: self._kanidm_logout,
            **dict.fromkeys(KANIDM_LOGIN, self._resume),
        }
        router = Router(ours, self.login_guard.otherwise)
        self.listener = Listener(plan.sockets, tls=plan.tls, handler=router, settings=self._current, inherited=bool(plan.inherited))

    def _current(self) -> Settings:
        return self.settings

    async def load(self, config: Config) -> None:
        """Import the issuer and read the key set, in threads, while kanidmd boots. Raises ConfigError."""
        await trio.to_thread.run_sync(self._load_issuer)
        self.secrets.use(await trio.to_thread.run_sync(self._read_secrets, config))
        self._token_file = config.kanidm_token
        # server.toml as the plan has read it, and kanidmd too: it may have changed since.
        context = await trio.to_thread.run_sync(self._context, config, self._plan.server)
        self._forward_auth = await trio.to_thread.run_sync(self._make_forward_auth, config, context)
        self._service.configure(context)
        self._loaded.set()

    def _load_issuer(self) -> None:
        from kiwi_id.issuer.backchannel import Courier  # noqa: PLC0415 - PyJWT and cryptography, wanted late
        from kiwi_id.issuer.chosen import ChosenSecrets, from_kanidm  # noqa: PLC0415
        from kiwi_id.issuer.service import Service  # noqa: PLC0415
        from kiwi_id.web.issuer import IssuerHandler  # noqa: PLC0415

        self.secrets = ChosenSecrets(from_kanidm(self._caller, lambda: self._token_file))
        self._courier = Courier()
        self._service = Service(self._courier.deliver)
        self._issuer = IssuerHandler(self._service, self._forwarder)

    async def deliver(self) -> None:
        """Deliver logout tokens, for ever; a task for the supervisor's nursery, after :meth:`load`."""
        await self._courier.run()

    def _make_app(self) -> Any:
        from kiwi_id.web.app import create_app  # noqa: PLC0415 - Quart takes 0.2 s and 16 MB

        return create_app(self._issuer.answer)

    # -- handlers that wait until what they need is loaded ------------------------------------------------------------------

    async def _issue(self, exchange: Exchange) -> None:
        if await self._is_loaded(exchange):
            await self._issuer(exchange)

    async def _show_page(self, exchange: Exchange) -> None:
        if await self._is_loaded(exchange):
            await self.facade(exchange)

    async def _kanidm_logout(self, exchange: Exchange) -> None:
        if await self._is_loaded(exchange):
            await self._issuer.kanidm_logout(exchange)

    async def _resume(self, exchange: Exchange) -> None:
        if await self._is_loaded(exchange):
            await self._issuer.resume(exchange)

    async def _ask_forward_auth(self, exchange: Exchange) -> None:
        if await self._is_loaded(exchange):
            await (self._forward_auth or self._forwarder)(exchange)

    async def _redirected(self, exchange: Exchange, headers: Headers) -> bool:
        return not await self._is_loaded(exchange) or await self._issuer.returning(exchange, headers)

    async def _is_loaded(self, exchange: Exchange) -> bool:
        """Wait for the issuer, as requests wait at the gate; answer 503 and return False when it does not come."""
        if not self._loaded.is_set():
            with trio.move_on_after(self.settings.limits.gate_timeout):
                await self._loaded.wait()
        if not self._loaded.is_set():
            message = "The login service is starting. Please try again in a moment."
            await exchange.respond_error(503, "starting", message, retry_after=RETRY_AFTER)
        return self._loaded.is_set()

    # -- what a reload changes ----------------------------------------------------------------------------------------------

    def _context(self, config: Config, server: ServerToml) -> Context:
        """Read the key set and make the issuer's context. Raises ConfigError."""
        from kiwi_id.issuer.context import Context  # noqa: PLC0415
        from kiwi_id.issuer.rotation import Keyring  # noqa: PLC0415
        from kiwi_id.kanidm.oauth2 import OAuth2  # noqa: PLC0415

        keyring = Keyring.of(config)
        keyring.finish_interrupted()
        keyring.tell_strangers()
        return Context(
            issuer=config.issuer or server.origin,
            domain=server.domain,
            groups_claim=config.groups_claim,
            keys=keyring.load(),
            clients=config.clients,
            kanidm=OAuth2(self._caller, self.secrets.renew),
            secrets=self.secrets,
        )

    def prepare_issuer(self, new: Config) -> Callable[[], list[str]]:
        """Make the issuer's context anew (a reload step). Raises ConfigError."""
        context = self._context(new, self._plan.read_server(new))
        forward_auth = self._make_forward_auth(new, context)
        read = self._read_secrets(new)

        def apply() -> list[str]:
            self._forward_auth = forward_auth
            self._token_file = new.kanidm_token
            return [*self._service.configure(context), *self.secrets.use(read)]

        return apply

    def _read_secrets(self, config: Config) -> Read:
        """Read the chosen client secrets. Nothing about them stops a start or a reload: people log in to the other clients."""
        from kiwi_id.identities.secret_files import of_state_file  # noqa: PLC0415

        # A state file that is gone is no word that nobody has chosen a secret any more.
        wanted = config.identities is not None or bool(self.secrets.clients)
        return of_state_file(config.identities_file, datetime.now(UTC), wanted=wanted)

    async def reread_secrets(self, config: Config) -> list[Problem]:
        """Read the chosen client secrets anew, and nothing else; return what is wrong with them."""
        await self._loaded.wait()
        self.secrets.use(await trio.to_thread.run_sync(self._read_secrets, config))
        return self.secrets.problems

    @property
    def secret_problems(self) -> list[Problem]:
        """What was wrong with the chosen client secrets when they were read last."""
        return self.secrets.problems if self._loaded.is_set() else []

    def _make_forward_auth(self, config: Config, context: Context) -> ForwardAuth | None:
        """Make what answers at ``/auth/…``, when it is asked for. Raises ConfigError."""
        if not config.forward_auth_client:
            return None
        from kiwi_id.forward_auth.endpoints import ForwardAuth  # noqa: PLC0415 - not everybody wants it
        from kiwi_id.forward_auth.renewal import Renewals  # noqa: PLC0415
        from kiwi_id.forward_auth.rules import Rules  # noqa: PLC0415

        renewals = self._forward_auth.renewals if self._forward_auth else Renewals()
        rules = Rules.of(config, context.issuer)
        return ForwardAuth(context, rules, self._service.handle, lambda: self.settings.trusted, renewals)

    def prepare_tls(self, new: Config) -> Callable[[], None]:
        """Read the listener's TLS files (a reload step). Raises ConfigError."""
        context = tls_context(new)

        def apply() -> None:
            self.listener.tls = context

        return apply

    def prepare_limits(self, new: Config) -> Callable[[], None]:
        """Take the new limits, trusted proxies, host names and networks (a reload step). Raises ConfigError."""
        settings = _settings(new, self._plan.read_server(new))

        def apply() -> None:
            self.settings = settings
            self.pool.resize(settings.limits.upstream_connections)
            self.login_guard.change(new.protection)

        return apply


def _settings(config: Config, server: ServerToml) -> Settings:
    guard = None
    if config.allowed_hosts or config.admin_networks:
        own = [urlsplit(server.origin).netloc, urlsplit(config.issuer).netloc, str(config.listen_addr), *config.forward_auth_hosts]
        hosts = [*filter(None, own), *config.allowed_hosts] if config.allowed_hosts else []
        guard = Guard(hosts, config.admin_networks)
    return Settings(descriptors.fit(config.limits), config.trusted_proxies, guard)
