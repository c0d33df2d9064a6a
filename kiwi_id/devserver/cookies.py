"""Kanidm's cookies (server/core/src/https/views/cookies.rs): names, attributes, removal."""

import time
from email.utils import formatdate

from kiwi_id.devserver.config import ServerConfig
from kiwi_id.devserver.http import Request

__all__ = ["AUTHREQ", "AUTH_SESSION", "BEARER", "CU_SESSION", "USERNAME", "Jar"]

BEARER = "bearer"
AUTH_SESSION = "auth-session-id"
AUTHREQ = "o2-authreq"
CU_SESSION = "cu-session-token"
USERNAME = "username"
_YEAR = 365 * 86400


class Jar:
    """The cookies of one request, and what the answer changes in them; the last change of a name wins."""

    def __init__(self, config: ServerConfig, request: Request) -> None:
        self._config = config
        self._cookies = dict(request.cookies)
        self._changes: dict[str, str] = {}

    def get(self, name: str) -> str | None:
        """A cookie's value as of now."""
        return self._cookies.get(name)

    def add(self, name: str, value: str, same_site: str = "Lax", max_age: int | None = None, permanent: bool = False) -> None:
        """Set a cookie for the whole domain; `max_age` in seconds, `permanent` for twenty years."""
        parts = [f"{name}={value}", "HttpOnly", f"SameSite={same_site}"]
        if self._config.secure_cookies:
            parts.append("Secure")
        parts += ["Path=/", f"Domain={self._config.domain}"]
        if permanent:
            expires = formatdate(time.time() + 20 * _YEAR, usegmt=True)
            parts += [f"Max-Age={20 * _YEAR}", f"Expires={expires}"]
        elif max_age is not None:
            parts.append(f"Max-Age={max_age}")
        self._cookies[name] = value
        self._changes[name] = "; ".join(parts)

    def add_host_only(self, name: str, value: str) -> None:
        """Set a strict cookie without domain and path, as `/v1/auth` does."""
        secure = "; Secure" if self._config.secure_cookies else ""
        self._changes[name] = f"{name}={value}; HttpOnly; SameSite=Strict{secure}"

    def destroy(self, name: str) -> None:
        """Remove a cookie, if the browser has it."""
        if self._cookies.pop(name, None) is not None:
            expires = formatdate(time.time() - _YEAR, usegmt=True)
            self._changes[name] = f"{name}=; Path=/; Domain={self._config.domain}; Max-Age=0; Expires={expires}"

    def headers(self) -> list[tuple[str, str]]:
        """The answer's Set-Cookie headers."""
        return [("set-cookie", value) for value in self._changes.values()]
