"""By which names the front is asked (421), and from where Kanidm is administered (403 with words): judged by what we believe."""

from __future__ import annotations

import json
from ipaddress import ip_network

import pytest

from kiwi_id import config
from kiwi_id.errors import ConfigError
from kiwi_id.proxy.administration import is_admin
from kiwi_id.proxy.connection import Settings
from kiwi_id.proxy.guard import Guard
from tests.front.conftest import Front, Lines
from tests.front.wire import Reply

NAMES = ("id.example.com:8443", "sso.example.com", "10.10.20.10:8443", "[fd00::1]:8443")


def guarded(front: Front, hosts: tuple[str, ...] = (), networks: tuple[str, ...] = ()) -> None:
    """Give the front a guard, as a reload does."""
    guard = Guard(hosts, tuple(ip_network(network) for network in networks))
    front.settings = Settings(front.settings.limits, front.settings.trusted, guard)


async def ask(
    front: Front, path: bytes = b"/", method: bytes = b"GET", host: bytes | None = b"id.example.com", more: bytes = b""
) -> Reply:
    """Ask once; HTTP/1.0 when there is no host."""
    named = b"Host: %s\r\n" % host if host is not None else b""
    version = b"1.0" if host is None else b"1.1"
    return await front.ask(b"%s %s HTTP/%s\r\n%s%s\r\n" % (method, path, version, named, more))


@pytest.mark.parametrize(
    "host",
    [
        *(
            b"id.example.com",
            b"ID.Example.COM",
            b"id.example.com:8443",
            b"id.example.com:443",
            b"id.example.com.",
            b"id.example.com:",
        ),
        *(b"sso.example.com", b"10.10.20.10", b"10.10.20.10:8443", b"[fd00::1]", b"[fd00::1]:8443"),
    ],
)
async def test_our_own_names(front: Front, host: bytes) -> None:
    """Names count without port, case and the dot of a root; addresses as they stand."""
    guarded(front, NAMES)
    assert (await ask(front, host=host)).status == 200


@pytest.mark.parametrize(
    "host",
    [
        *(
            b"evil.example",
            b"id.example.com.evil.example",
            b"evil-id.example.com",
            b"xid.example.com",
            b"example.com",
            b"localhost",
        ),
        *(b"", b"id.example.com..", b"10.10.20.1", b"[fd00::2]", b"[::ffff:10.10.20.10]", None),
    ],
)
async def test_other_names(front: Front, lines: Lines, host: bytes | None) -> None:
    """Any other name, and none, is 421 in words; kanidmd hears nothing of it, and it is counted."""
    guarded(front, NAMES)
    reply = await ask(front, host=host)
    assert reply.status == 421
    answer = json.loads(reply.body)["error"]
    assert answer["code"] == "misdirected_request"
    assert "allowed_hosts" in answer["message"]
    assert front.kanidm.peers == []
    assert [line["status"] for line in await lines.requests(1)] == [421]
    assert front.listener.shared.refusals.counts == {"misdirected_request": 1}


async def test_no_list_means_any_name(front: Front) -> None:
    """Without a guard, and with one that is for administration only, a gateway may pass any Host on."""
    assert (await ask(front, host=b"kiwi_backend")).status == 200
    guarded(front, networks=("192.0.2.0/24",))
    assert (await ask(front, host=b"kiwi_backend")).status == 200
    assert (await ask(front, host=None)).status == 200


@pytest.mark.parametrize("path", [b"/livez", b"/readyz", b"/healthz", b"/healthz?verbose"])
async def test_probes_are_exempt(front: Front, path: bytes) -> None:
    """An orchestrator asks by whatever address it knows, also without Host."""
    guarded(front, NAMES)
    assert (await ask(front, path, host=b"172.17.0.2:8443")).status == 200
    assert (await ask(front, path, host=None)).status == 200
    assert (await ask(front, path + b"/x", host=b"172.17.0.2:8443")).status in (200, 421)


async def test_behind_a_trusted_gateway_the_browsers_name_counts(front: Front) -> None:
    """A gateway that passes another Host and tells the browser's is judged by the browser's; nobody else's word is taken."""
    guarded(front, NAMES)
    told = b"X-Forwarded-Host: id.example.com\r\n"
    assert (await ask(front, host=b"kiwi_backend", more=told)).status == 421
    front.trust("127.0.0.1")
    assert (await ask(front, host=b"kiwi_backend", more=told)).status == 200
    assert (await ask(front, host=b"id.example.com", more=b"X-Forwarded-Host: evil.example\r\n")).status == 421


ADMIN = [
    *((b"POST", b"/v1/person"), (b"PATCH", b"/v1/person/alice"), (b"DELETE", b"/v1/group/x"), (b"PUT", b"/v1/oauth2/x/_attr/y")),
    *((b"POST", b"/v1/auth"), (b"POST", b"/v1"), (b"GET", b"/scim/v1/Sync"), (b"POST", b"/scim/v1/Sync"), (b"GET", b"/scim")),
    *((b"GET", b"/docs"), (b"GET", b"/docs/swagger-ui"), (b"GET", b"/docs/v1/openapi.json"), (b"DELETE", b"/v1/person/a?b=c")),
    *((b"POST", b"//v1/person"), (b"POST", b"/%76%31/person"), (b"POST", b"/v1%2fperson"), (b"POST", b"/ui/../v1/person")),
    *((b"POST", b"/./v1/person"), (b"POST", b"/V1/person"), (b"GET", b"/%2e%2e/scim/v1/Sync"), (b"GET", b"/ui/%2e%2e/docs")),
    *((b"POST", b"/ui\\..\\v1/person"), (b"PROPFIND", b"/v1/person"), (b"POST", b"/v1/../ui/login/pw")),
    *((b"GET", b"/v1/oauth2/wiki/_basic_secret"), (b"HEAD", b"/v1/person/alice/_credential/_update_intent/60")),
    *((b"POST", b"/ui/api/admin/group/x/add_member"), (b"GET", b"/ui/admin/persons"), (b"GET", b"/ui/%61dmin/persons")),
]
NOT_ADMIN = [
    *((b"GET", b"/v1/self"), (b"HEAD", b"/v1/person"), (b"OPTIONS", b"/v1/person"), (b"GET", b"/v1/person/alice")),
    *((b"POST", b"/ui/login/pw"), (b"POST", b"/oauth2/token"), (b"POST", b"/v10/x"), (b"POST", b"/v1x"), (b"GET", b"/scimitar")),
    *((b"GET", b"/docsx"), (b"GET", b"/ui/docs"), (b"GET", b"/")),
    *((b"POST", b"/v1/credential/_commit"), (b"POST", b"/ui/api/cu_commit"), (b"GET", b"/ui/reset?token=x")),
]


@pytest.mark.parametrize(("method", "path"), ADMIN)
async def test_administration_from_elsewhere(front: Front, method: bytes, path: bytes) -> None:
    """What administers Kanidm is 403 in words, however the path is spelt; kanidmd hears nothing of it."""
    guarded(front, networks=("192.0.2.0/24", "2001:db8::/32"))
    reply = await (await front.connect()).ask(b"%s %s HTTP/1.1\r\nHost: x\r\n\r\n" % (method, path), method.decode())
    assert (reply.status, reply.one(b"connection")) == (403, b"close")
    assert front.kanidm.peers == []
    assert front.listener.shared.refusals.counts == {"admin_closed": 1}
    if method == b"HEAD":
        return
    answer = json.loads(reply.body)["error"]
    assert answer["code"] == "admin_closed"
    assert "admin_networks" in answer["message"]


@pytest.mark.parametrize(("method", "path"), NOT_ADMIN)
async def test_what_is_no_administration(front: Front, method: bytes, path: bytes) -> None:
    """Reads that show no secret, logins, what people do to their own account and all that only looks alike pass from everywhere."""
    guarded(front, networks=("192.0.2.0/24",))
    assert not is_admin(method, path.partition(b"?")[0])
    reply = await (await front.connect()).ask(b"%s %s HTTP/1.1\r\nHost: x\r\n\r\n" % (method, path), method.decode())
    assert reply.status == 200


async def test_administration_from_a_named_network(front: Front) -> None:
    """Open from where it is configured, with everything; and from everywhere while nothing is."""
    assert (await ask(front, b"/v1/person", b"POST")).status == 200
    guarded(front, networks=("192.0.2.0/24", "127.0.0.0/8"))
    for method, path in ADMIN:
        reply = await (await front.connect()).ask(b"%s %s HTTP/1.1\r\nHost: x\r\n\r\n" % (method, path), method.decode())
        assert reply.status == 200


async def test_administration_behind_a_gateway(front: Front) -> None:
    """Behind a trusted proxy the client counts, not the proxy; what an untrusted one says counts for nothing."""
    guarded(front, networks=("192.0.2.0/24", "2001:db8::/32"))
    inside, outside = b"X-Forwarded-For: 192.0.2.7\r\n", b"X-Forwarded-For: 192.0.2.7, 198.51.100.9\r\n"
    assert (await ask(front, b"/docs", more=inside)).status == 403
    front.trust("127.0.0.1")
    assert (await ask(front, b"/docs", more=inside)).status == 200
    assert (await ask(front, b"/docs", more=b"X-Forwarded-For: 2001:db8::9\r\n")).status == 200
    assert (await ask(front, b"/docs", more=outside)).status == 403
    assert (await ask(front, b"/docs", more=b"Forwarded: for=198.51.100.9\r\n")).status == 403
    assert (await ask(front, b"/docs")).status == 403, "the gateway itself is not in the list"


async def test_a_browser_is_told_in_a_page(front: Front) -> None:
    """Whoever opens /docs from outside reads what to do, in a page."""
    guarded(front, NAMES, ("192.0.2.0/24",))
    for path, host, status in ((b"/docs", b"id.example.com", 403), (b"/", b"evil.example", 421)):
        reply = await ask(front, path, host=host, more=b"Accept: text/html\r\n")
        assert (reply.status, reply.one(b"content-type")) == (status, b"text/html; charset=utf-8")


def test_what_the_configuration_takes() -> None:
    """Names in any case and with ports, addresses and networks; nothing else, and no scheme."""
    parsed = config.parse(
        'allowed_hosts = ["SSO.example.com:8443", "10.0.0.1"]\nadmin_networks = ["10.0.0.0/8", "::1"]\n', config.DEFAULT_PATH
    )
    assert parsed.allowed_hosts == ("sso.example.com:8443", "10.0.0.1")
    assert parsed.admin_networks == (ip_network("10.0.0.0/8"), ip_network("::1"))
    for text in ('allowed_hosts = ["https://x.example"]', 'allowed_hosts = ["*"]', 'admin_networks = ["localhost"]'):
        with pytest.raises(ConfigError):
            config.parse(text, config.DEFAULT_PATH)
