"""``kiwi-id client``, over the stand-in and the real kanidmd."""

from __future__ import annotations

from kiwi_id.errors import Exit
from tests.bootstrap import conftest
from tests.bootstrap.world import World

command, world, ready = conftest.command, conftest.world, conftest.ready  # the fixtures


def test_a_confidential_client(ready: World) -> None:
    """Added, shown and listed; its secret comes only when it is asked for, stays, and is renewed on demand."""
    ready.ok("group", "add", "readers")
    ready.ok("group", "add", "writers")
    uris = ["https://mail.example.com/callback", "https://mail.example.com/other?x=1"]
    done = ready.ok(
        *("client", "add", "mail", "--display-name", "Mail", "--redirect-uri", uris[0], "--redirect-uri", uris[1]),
        *("--group", "readers", "--group", "writers", "--scopes", "openid email"),
    )
    assert "https://id.example.com/.well-known/openid-configuration" in done
    secret = ready.ok("client", "secret", "mail").strip()
    assert len(secret) >= 40
    assert secret not in done
    shown = ready.json("client", "show", "mail")
    assert shown.pop("id")
    assert shown == {
        "client_id": "mail",
        "display_name": "Mail",
        "public": False,
        "landing": "https://mail.example.com/",
        "redirect_uris": uris,
        "scopes": {"readers": ["email", "openid"], "writers": ["email", "openid"]},
        "chosen_secret": None,
        "pkce_required": True,
        "issuer": "https://id.example.com",
    }
    for text in (ready.ok("client", "show", "mail"), ready.ok("client", "list"), ready.ok("client", "list", "--json")):
        assert "mail" in text
        assert secret not in text
    assert ready.json("client", "secret", "mail") == {"client_id": "mail", "client_secret": secret}
    renewed = ready.ok("client", "secret", "mail", "--renew").strip()
    assert renewed != secret
    assert ready.ok("client", "secret", "mail").strip() == renewed
    assert ready.json("client", "remove", "mail", "--yes") == {"client_id": "mail", "removed": True}
    assert ready.json("client", "list") == []


def test_a_public_client(ready: World) -> None:
    """It has no secret, always PKCE, and may have redirect URIs that have no home page, when one is given."""
    ready.ok("group", "add", "readers")
    arguments = ("client", "add", "phone", "--public", "--group", "readers", "--redirect-uri", "app://callback")
    done = ready.run(*arguments)
    assert done.returncode == Exit.USAGE
    assert "--landing" in done.stderr
    assert "No secret" in ready.ok(*arguments, "--landing", "https://phone.example.com/")
    (listed,) = ready.json("client", "list")
    assert (listed["public"], listed["pkce_required"], listed["redirect_uris"]) == (True, True, ["app://callback"])
    for more in ((), ("--renew",)):
        done = ready.run("client", "secret", "phone", *more)
        assert (done.returncode, done.stdout) == (Exit.FAILURE, "")
        assert "is public" in done.stderr


def test_what_cannot_be(ready: World) -> None:
    """What Kanidm refuses leaves no half of a client; what is missing is named; a removal asks for --yes."""
    ready.ok("group", "add", "readers")
    add = ("client", "add", "mail", "--redirect-uri", "https://mail.example.com/callback", "--group", "readers")
    for wrong, words in (
        (("--scopes", "not-a-scope"), "a scope of letters"),
        (("--scopes", ""), "--scopes: found none"),
        (("--redirect-uri", "nonsense"), "an absolute URI"),
        (("--redirect-uri", "javascript:alert(1)"), "a URI that cannot be used"),
        (("--redirect-uri", "https://mail.example.com/callback"), "twice"),
        (("--landing", "javascript:alert(1)"), "--landing: "),
        (("--display-name", "a\x1bb"), "--display-name: "),
    ):
        done = ready.run(*add, *wrong)
        assert (done.returncode, done.stdout) == (Exit.USAGE, ""), wrong
        assert words in done.stderr
    assert ready.run(*add, "--group", "nothing").returncode == Exit.FAILURE
    assert ready.json("client", "list") == []
    ready.ok(*add)
    for arguments, words in (
        (add, "a client 'mail' already"),
        (("client", "show", "other"), "no client 'other'"),
        (("client", "secret", "other"), "no client 'other'"),
        (("client", "remove", "other", "--yes"), "no client 'other'"),
    ):
        done = ready.run(*arguments)
        assert (done.returncode, done.stdout) == (Exit.FAILURE, ""), arguments
        assert words in done.stderr
    assert ready.run("client", "remove", "mail").returncode == Exit.USAGE
    assert [client["client_id"] for client in ready.json("client", "list")] == ["mail"]
