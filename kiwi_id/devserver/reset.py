"""The page of reset links: set a new password in the browser.

Kanidm has a whole page of its own for this, driven by htmx. The stand-in keeps its address, title, cookie and field names,
and does the one thing that a person needs to get in: a password, committed at once.
"""

from kiwi_id.devserver import pages
from kiwi_id.devserver.app import App
from kiwi_id.devserver.cookies import CU_SESSION, Jar
from kiwi_id.devserver.http import ApiError, Request, Response, Router
from kiwi_id.devserver.login import page, see_other

__all__ = ["add_routes"]

_GONE = "This reset link was used already, is too old, or is not known here. Ask for a new one."


def add_routes(router: Router, app: App) -> None:
    """Register the routes of this module."""
    views = _Reset(app)
    router.add("GET", "/ui/reset", views.reset)
    router.add("GET", "/ui/update_credentials", views.update_credentials)
    router.add("POST", "/ui/reset/add_password", views.add_password)


class _Reset:
    def __init__(self, app: App) -> None:
        self._app = app

    async def reset(self, request: Request) -> Response:
        jar = Jar(self._app.config, request)
        intent = dict(request.query).get("token")
        if intent:
            try:
                token = self._app.credentials.exchange(intent.strip())
            except ApiError:
                return self._page(pages.reset(self._app.config.domain, _GONE), jar)
            jar.add(CU_SESSION, token, same_site="Strict")
            return self._form(token, jar, None)
        return self._page(pages.reset(self._app.config.domain, None), jar)

    async def update_credentials(self, request: Request) -> Response:
        identity = self._app.auth.maybe(request)
        if identity is None:
            return see_other("/ui")
        jar = Jar(self._app.config, request)
        token = self._app.credentials.open(identity.entry, None)
        jar.add(CU_SESSION, token, same_site="Strict")
        return self._form(token, jar, None)

    def _page(self, html: bytes, jar: Jar) -> Response:
        response = page(html, jar)
        response.headers.append(("hx-push-url", "/ui/reset"))
        return response

    def _form(self, token: str, jar: Jar, problem: str | None) -> Response:
        status = self._app.credentials.status(token)
        return self._page(pages.new_password(self._app.config.domain, status["displayname"], problem), jar)

    async def add_password(self, request: Request) -> Response:
        form = await request.form()
        jar = Jar(self._app.config, request)
        token = jar.get(CU_SESSION) or ""
        credentials = self._app.credentials
        try:
            credentials.status(token)
        except ApiError:
            return self._page(pages.reset(self._app.config.domain, _GONE), jar)
        if form.get("new_password") != form.get("new_password_check"):
            return self._form(token, jar, "The two passwords differ.")
        try:
            credentials.change(token, "password", form.get("new_password", ""))
        except ApiError:
            return self._form(token, jar, "This password is too easy to guess: use ten characters or more, and no common word.")
        try:
            credentials.commit(token)
        except ApiError:
            problem = "Policy asks for a second factor, which this page cannot register. Use the REST API, or lift the policy."
            return self._form(token, jar, problem)
        jar.destroy(CU_SESSION)
        return self._page(pages.password_set(self._app.config.domain), jar)
