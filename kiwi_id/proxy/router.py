"""The router: which handler serves a path. What is not ours passes through, untouched."""

from __future__ import annotations

from collections.abc import Mapping

from kiwi_id.proxy.exchange import Exchange, Handler


class Router:
    """Exact paths that are ours, and the handler for all others."""

    def __init__(self, ours: Mapping[bytes, Handler], otherwise: Handler) -> None:
        self._ours, self._otherwise = dict(ours), otherwise

    async def __call__(self, exchange: Exchange) -> None:
        """Serve the exchange by the handler of its path."""
        await self._ours.get(exchange.path, self._otherwise)(exchange)
