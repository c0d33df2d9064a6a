"""Flask: a decorator that lets callers with a good bearer token into a view. Needs Flask."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from flask import Response, abort, current_app, request

from kiwi_id.verify.bearer import REALM, Guard, Refused, group_names, scope_names
from kiwi_id.verify.wsgi import KEY, authorization

if TYPE_CHECKING:
    from kiwi_id.verify.claims import Claims
    from kiwi_id.verify.verifier import Verifier

P = ParamSpec("P")
R = TypeVar("R")


class Bearer:
    """Makes decorators that check a request's bearer token before the view runs."""

    def __init__(self, verifier: Verifier, *, realm: str = REALM) -> None:
        self._guard = Guard(verifier, realm=realm)

    def required(
        self, *, scopes: Collection[str] = (), groups: Collection[str] = (), optional: bool = False
    ) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """Return the decorator for a view that needs a token with all of ``scopes`` and ``groups``.

        With ``optional``, callers without any token are let in, too. It goes below ``@app.route``. Refusals are as in RFC 6750 §3.
        """
        needed = {"scopes": scope_names(scopes), "groups": group_names(groups)}

        def decorate(view: Callable[P, R]) -> Callable[P, R]:
            @wraps(view)
            def checked(*args: P.args, **kwargs: P.kwargs) -> R:
                try:
                    claims = self._guard.claims(authorization(request.environ), optional=optional, **needed)
                except Refused as error:
                    refused = error
                else:
                    request.environ[KEY] = claims
                    return cast(R, current_app.ensure_sync(view)(*args, **kwargs))
                abort(Response(refused.body, refused.status, refused.headers))

            return checked

        return decorate


def current_claims() -> Claims | None:
    """Return the claims of the caller; None when a view that allows it was called without a token.

    Raises LookupError where nobody has checked the caller: neither the decorator nor the WSGI middleware.
    """
    environ: dict[str, Any] = request.environ
    if KEY not in environ:
        raise LookupError("this view is not behind Bearer.required or BearerMiddleware: its caller was not checked")
    return cast("Claims | None", environ[KEY])
