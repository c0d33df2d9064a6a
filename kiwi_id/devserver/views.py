"""The other pages under `/ui`: authorization and consent in the browser, applications, profile."""

from kiwi_id.devserver import authreq, oauth2, pages
from kiwi_id.devserver.app import App
from kiwi_id.devserver.authreq import AuthRequest
from kiwi_id.devserver.cookies import AUTHREQ, Jar
from kiwi_id.devserver.http import ApiError, HttpError, Request, Response, Router
from kiwi_id.devserver.login import error_page, login_page, page, see_other
from kiwi_id.devserver.oauth2 import OAuthError

__all__ = ["add_routes"]

_AUTHREQ_SECONDS = 900
_NO_RESUME = "UI0003InvalidOauth2Resume - The server attemped to resume OAuth2, but no OAuth2 session is in progress."


def add_routes(router: Router, app: App) -> None:
    """Register the routes of this module."""
    views = _Views(app)
    router.add("GET", "/", views.root)
    router.add("GET", "/ui", views.ui)
    router.add("GET", "/ui/oauth2", views.authorise)
    router.add("GET", "/ui/oauth2/resume", views.resume)
    router.add("POST", "/ui/oauth2/consent", views.consent)
    router.add("GET", "/ui/apps", views.apps)
    router.add("GET", "/ui/profile", views.profile)
    router.add("GET", "/ui/enrol", views.enrol)


class _Views:
    def __init__(self, app: App) -> None:
        self._app = app

    async def root(self, request: Request) -> Response:
        return see_other("/ui")

    async def ui(self, request: Request) -> Response:
        return Response(308, headers=[("location", "/ui/login")])

    async def authorise(self, request: Request) -> Response:
        return self._authorise(request, authreq.parse(request.query))

    async def resume(self, request: Request) -> Response:
        token = request.cookies.get(AUTHREQ)
        return self._authorise(request, AuthRequest.from_cookie(self._app.cookie_key.verify(token) if token else None))

    def _authorise(self, request: Request, parsed: AuthRequest | None) -> Response:
        jar = Jar(self._app.config, request)
        # Gone whatever happens, so that a bad request cannot come back in a loop.
        jar.destroy(AUTHREQ)
        if parsed is None:
            return error_page(self._app, request, _NO_RESUME, jar)
        try:
            result = oauth2.authorise(self._app, parsed, self._app.auth.maybe(request))
        except OAuthError as error:
            if error.code == "access_denied":
                return page(pages.access_denied(request.opid), jar)
            return error_page(self._app, request, "InvalidState", jar)
        if isinstance(result, oauth2.Consent):
            return page(pages.consent(result.client_name, result.pii_scopes, result.token), jar)
        if isinstance(result, oauth2.Login):
            cookie = self._app.cookie_key.sign(parsed.to_cookie())
            jar.add(AUTHREQ, cookie, same_site="Strict", max_age=_AUTHREQ_SECONDS)
            return login_page(self._app, jar, result.client_name, result.login_hint)
        return _back(result, jar)

    async def consent(self, request: Request) -> Response:
        token = (await request.form()).get("consent_token")
        if token is None:
            raise HttpError(422, "Failed to deserialize form body: missing field `consent_token`")
        jar = Jar(self._app.config, request)
        try:
            result = oauth2.permit(self._app, self._app.auth.identify(request), token)
        except ApiError:
            return error_page(self._app, request, "InvalidState")
        jar.destroy(AUTHREQ)
        return _back(result, jar)

    async def apps(self, request: Request) -> Response:
        identity = self._app.auth.maybe(request)
        if identity is None:
            return see_other("/ui")
        links = [
            (client.first("displayname") or client.name, client.attrs["oauth2_rs_origin_landing"][0])
            for client in oauth2.apps_of(self._app.directory, identity.entry)
        ]
        response = page(pages.apps(identity.entry.first("displayname") or identity.entry.name, links))
        response.headers.append(("hx-push-url", "/ui/apps"))
        return response

    async def profile(self, request: Request) -> Response:
        entry = self._app.auth.identify(request).entry
        spn = self._app.directory.spn(entry)
        return page(pages.profile(entry.first("displayname") or entry.name, spn, entry.first("mail")))

    async def enrol(self, request: Request) -> Response:
        # Enrolling another device is a page of Kanidm's that the stand-in does not have.
        return see_other("/ui")


def _back(result: oauth2.Permitted, jar: Jar) -> Response:
    response = see_other(result.location, jar)
    response.headers += [("hx-redirect", result.location), ("access-control-allow-origin", result.origin)]
    return response
