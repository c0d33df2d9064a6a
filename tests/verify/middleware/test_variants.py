"""What docs/middleware.md says in words beside its examples: each example, changed as the words say, does so."""

from __future__ import annotations

from pathlib import Path

from tests.verify.middleware.minted import token
from tests.verify.middleware.test_examples import example, open_websocket, served


def test_fastapi_websocket(tmp_path: Path) -> None:
    """The dependency works on a WebSocket route as well; who is refused never gets a handshake."""
    code = example("FastAPI") + (
        "\nfrom fastapi import WebSocket\n\n"
        '@app.websocket("/live")\n'
        "async def live(websocket: WebSocket, claims: Annotated[Claims, Security(member)]) -> None:\n"
        "    await websocket.accept()\n"
        "    await websocket.send_text(claims.name)\n"
        "    await websocket.close()\n"
    )
    with served(tmp_path, code, "asyncio") as app:
        assert open_websocket(app.port, "/live", f"Bearer {token()}") == (101, b"Alice Demo")
        assert open_websocket(app.port, "/live")[0] in (401, 403)
        assert open_websocket(app.port, "/live", f"Bearer {token(groups=[])}")[0] == 403


def test_fastapi_closed_as_a_whole(tmp_path: Path) -> None:
    """A dependency of the application, and the middleware around it, both close routes that have none of their own."""
    plain = example("FastAPI")
    by_dependency = plain.replace("FastAPI()", "FastAPI(dependencies=[Security(bearer)])")
    by_middleware = (
        "from kiwi_id.verify.asgi import BearerMiddleware\n"
        + plain
        + '\napp.add_middleware(BearerMiddleware, verifier=verifier, anonymous_paths=["/docs"])\n'
    )
    for code in (by_dependency, by_middleware):
        with served(tmp_path, code, "asyncio") as app:
            assert app.get("/health").status_code == 401
            assert app.get("/health", f"Bearer {token()}").status_code == 200
            assert app.get("/docs").status_code == 200


def test_flask_closed_as_a_whole(tmp_path: Path) -> None:
    """Behind the middleware every view is closed, and current_claims() works in one without the decorator."""
    code = example("Flask").replace('@bearer.required(scopes=["mail_read"], groups=["mail_users"])\n', "") + (
        "\nfrom kiwi_id.verify.wsgi import BearerMiddleware\n"
        'app.wsgi_app = BearerMiddleware(app.wsgi_app, verifier, anonymous_paths=["/health"])\n'
    )
    with served(tmp_path, code, "wsgi") as app:
        assert app.get("/inbox").status_code == 401
        assert app.get("/inbox", f"Bearer {token()}").json() == {"inbox of": "Alice Demo"}
        assert app.get("/health").status_code == 200


def test_flask_view_that_nobody_guards(tmp_path: Path) -> None:
    """A decorator that was forgotten is an error of the server's, never a caller without claims; async views can be decorated."""
    code = example("Flask") + (
        '\n@app.get("/forgotten")\ndef forgotten():\n    return {"hello": str(current_claims())}\n'
        '\n@app.get("/later")\n@bearer.required()\nasync def later():\n    return {"hello": current_claims().name}\n'
    )
    with served(tmp_path, code, "wsgi") as app:
        assert app.get("/forgotten").status_code == 500
        assert "was not checked" in app.output.read_text()
        assert app.get("/later", f"Bearer {token()}").json() == {"hello": "Alice Demo"}
        assert app.get("/later").status_code == 401


def test_django_under_asgi(tmp_path: Path) -> None:
    """The ASGI middleware around Django; the claims are in request.scope."""
    code = example("Django").replace("wsgi", "asgi").replace('request.META["kiwi.claims"]', 'request.scope["kiwi"]')
    with served(tmp_path, code, "asyncio") as app:
        assert app.get("/inbox", f"Bearer {token()}").json() == {"inbox of": "Alice Demo"}
        assert app.get("/inbox").status_code == 401
        assert app.get("/health").json() == {"ok": True}


def test_starlette_part_that_wants_more(tmp_path: Path) -> None:
    """A mount with a middleware of its own asks for more than the application around it; its paths begin at the mount."""
    code = (
        example("Starlette")
        .replace(
            "routes=[",
            'routes=[Mount("/admin", routes=[Route("/inbox", inbox), Route("/help", health)], middleware=[Middleware('
            'BearerMiddleware, verifier, required_groups=["admins"], anonymous_paths=["/help"])]), ',
        )
        .replace("import Route,", "import Mount, Route,")
    )
    with served(tmp_path, code, "asyncio") as app:
        assert app.get("/admin/inbox", f"Bearer {token()}").status_code == 403
        assert app.get("/admin/inbox", f"Bearer {token(groups=['mail_users', 'admins'])}").status_code == 200
        assert app.get("/admin/help", f"Bearer {token()}").status_code == 200
        assert app.get("/admin/help").status_code == 401
