"""The login pages under `/ui/login` (server/core/src/https/views/login.rs)."""

from typing import Any

from kiwi_id.devserver import pages
from kiwi_id.devserver.app import App
from kiwi_id.devserver.auth import AuthResult
from kiwi_id.devserver.cookies import AUTH_SESSION, AUTHREQ, BEARER, CU_SESSION, USERNAME, Jar
from kiwi_id.devserver.http import ApiError, Handler, HttpError, Request, Response, Router

__all__ = ["add_routes", "error_page", "login_page", "page", "see_other"]

# An OperationError's JSON name as the error page writes it.
_NAMES = {
    "invalidstate": "InvalidState",
    "invalidsessionstate": "InvalidSessionState",
    "nomatchingentries": "NoMatchingEntries",
    "cryptographyerror": "CryptographyError",
}


def add_routes(router: Router, app: App) -> None:
    """Register the routes of this module."""
    views = _Login(app)
    router.add("GET", "/ui/login", views.index)
    router.add("GET", "/ui/logout", views.logout)
    for name, handler in (
        ("begin", views.begin),
        ("mech_choose", views.mech_choose),
        ("pw", views.credential("password")),
        ("totp", views.credential("totp")),
        ("passkey", views.unsupported),
        ("seckey", views.unsupported),
        ("backup_code", views.unsupported),
    ):
        router.add("POST", f"/ui/login/{name}", handler)
        router.add("GET", f"/ui/login/{name}", _to_ui)


def page(html: bytes, jar: Jar | None = None) -> Response:
    """An HTML answer; Kanidm sends 200 for its error pages too."""
    return Response(200, html, "text/html; charset=utf-8", jar.headers() if jar else [])


def see_other(location: str, jar: Jar | None = None) -> Response:
    """A 303 to `location`."""
    return Response(303, headers=[("location", location), *(jar.headers() if jar else [])])


def error_page(app: App, request: Request, code: Any, jar: Jar | None = None) -> Response:
    """The page for what cannot be mended; `code` is an OperationError's JSON form, or its name."""
    if isinstance(code, dict) and "invalidauthstate" in code:
        name = f'InvalidAuthState("{code["invalidauthstate"]}")'
    else:
        name = _NAMES.get(str(code), str(code))
    return page(pages.error(app.config.domain, name, request.opid), jar)


def login_page(app: App, jar: Jar, client: str | None = None, hint: str | None = None) -> Response:
    """The login's first page, with the remembered or hinted username."""
    remembered = jar.get(USERNAME)
    username = hint or remembered or ""
    return page(pages.login(app.config.domain, username, bool(remembered) and not hint, client, None), jar)


async def _to_ui(request: Request) -> Response:
    return see_other("/ui")


def _field(form: dict[str, str], name: str) -> str:
    if name not in form:
        raise HttpError(422, f"Failed to deserialize form body: missing field `{name}`")
    return form[name]


class _Login:
    def __init__(self, app: App) -> None:
        self._app = app

    async def index(self, request: Request) -> Response:
        jar = Jar(self._app.config, request)
        jar.destroy(AUTHREQ)
        if self._app.auth.maybe(request):
            return see_other("/ui/apps", jar)
        return login_page(self._app, jar)

    async def logout(self, request: Request) -> Response:
        self._app.auth.logout(request)
        jar = Jar(self._app.config, request)
        for name in (BEARER, AUTHREQ, AUTH_SESSION, CU_SESSION):
            jar.destroy(name)
        return see_other("/ui/login", jar)

    async def begin(self, request: Request) -> Response:
        form = await request.form()
        username = _field(form, "username")
        remember = "remember_me" in form
        try:
            result = self._app.auth.start(username, "cookie", False)
        except ApiError as error:
            if error.error != "nomatchingentries":
                return error_page(self._app, request, error.error)
            return page(pages.login(self._app.config.domain, username, remember, None, "Invalid username"))
        context: dict[str, Any] = {"u": username, "r": remember}
        # As the real server: what a password manager filled in travels in the signed cookie.
        context |= {key: form[name] for key, name in (("p", "password"), ("t", "totp")) if form.get(name)}
        return self._step(request, result, context)

    async def mech_choose(self, request: Request) -> Response:
        mech = _field(await request.form(), "mech")
        context = self._context(request)
        try:
            result = self._app.auth.begin(context.get("i"), mech)
        except ApiError as error:
            return error_page(self._app, request, error.error)
        return self._step(request, result, context)

    def credential(self, kind: str) -> Handler:
        async def post(request: Request) -> Response:
            text = _field(await request.form(), kind)
            value: str | int = text
            if kind == "totp":
                digits = "".join(text.split())
                if not digits.isdecimal():
                    return page(pages.totp(self._app.config.domain, text, bad_syntax=True))
                value = int(digits)
            context = self._context(request)
            try:
                result = self._app.auth.credential(context.get("i"), kind, value)
            except ApiError as error:
                return error_page(self._app, request, error.error)
            return self._step(request, result, context)

        return post

    async def unsupported(self, request: Request) -> Response:
        await request.body()
        return error_page(self._app, request, "The stand-in knows passwords and one-time codes only")

    def _context(self, request: Request) -> dict[str, Any]:
        token = request.cookies.get(AUTH_SESSION)
        context = self._app.cookie_key.verify(token) if token else None
        return context if isinstance(context, dict) else {}

    def _step(self, request: Request, result: AuthResult, context: dict[str, Any]) -> Response:
        jar = Jar(self._app.config, request)
        domain = self._app.config.domain
        context["i"] = result.session_id
        if result.state == "choose":
            # There is one mechanism only, and the real server chooses for the person in that case; its cookie is set before, so
            # that a refusal takes it away.
            jar.add(AUTH_SESSION, self._app.cookie_key.sign(context), same_site="Strict")
            result = self._app.auth.begin(result.session_id, result.value[0])
        if result.state == "continue":
            jar.add(AUTH_SESSION, self._app.cookie_key.sign(context), same_site="Strict")
            if result.value == ["totp"]:
                return page(pages.totp(domain, context.get("t", "")), jar)
            return page(pages.password(domain, context.get("p", "")), jar)
        if result.state == "denied":
            jar.destroy(AUTH_SESSION)
            return page(pages.denied(domain, result.value, request.opid), jar)
        if context.get("r"):
            jar.add(USERNAME, context.get("u", ""), permanent=True)
        jar.add(BEARER, result.value, permanent=True)
        jar.destroy(AUTH_SESSION)
        return see_other("/ui/oauth2/resume" if jar.get(AUTHREQ) else "/ui/apps", jar)
