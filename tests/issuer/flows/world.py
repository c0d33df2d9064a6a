"""A running Kiwi ID with clients of every kind, further Kiwi IDs over the same kanidmd, and a ledger of all secrets seen."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jwt
import trio
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from kiwi_id import demo
from kiwi_id.instance import keys, layout
from kiwi_id.instance.ports import free_port
from kiwi_id.kanidm import server_toml
from kiwi_id.kanidm.rest import Kanidm
from tests.issuer.flows.receiver import Receiver
from tests.issuer.flows.tab import Asked, Client, Person, Tab
from tests.kanidm.instance import ROOT, Instance, start

ALICE, BOB = (Person(user.name, user.password) for user in demo.USERS)
CAROL = Person("carol", "harbour-cinnamon-glacier-41")
AFTER_LOGOUT = "https://app.localhost/signed-out"
WITH_QUERY = "https://other.localhost/cb?tenant=7&name=a%20b&next=%2Fhome%3Fx%3D1"
APP_URI = "com.example.flow://callback"

# What flow-mapped has claim maps for: an administrator may call one anything.
PROTOCOL_CLAIMS = ("sub", "iss", "aud", "azp", "exp", "iat", "nonce", "sid", "auth_time", "at_hash", "jti", "scope", "client_id")

_WORD = re.compile(r"[A-Za-z0-9_.~%+/=-]{12,}")

# A child that does nothing: this Kiwi ID serves over the kanidmd of another one.
_IDLER = """#!{python}
import signal, sys
if "server" not in sys.argv:
    print("kanidmd 1.5.0")
    sys.exit(0)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
signal.signal(signal.SIGHUP, signal.SIG_IGN)
while True:
    signal.pause()
"""


class World:
    """See the module; every client of it is an attribute."""

    def __init__(self, kanidmd: Path, directory: Path) -> None:
        self.secrets: set[str] = set()
        self.receiver = Receiver()
        self._directory = directory
        self._replicas: list[Instance] = []
        hook = self.receiver.url
        settings = [
            'log_level = "debug"',
            f'clients.kiwi-demo.post_logout_redirect_uris = ["{AFTER_LOGOUT}", "https://app.localhost/out?x=1"]',
            f'clients.kiwi-demo.backchannel_logout_uri = "{hook}/demo"',
            f'clients.flow-other.backchannel_logout_uri = "{hook}/other"',
            'clients.flow-other.post_logout_redirect_uris = ["https://other.localhost/out"]',
            "clients.flow-strict.require_pkce = true",
        ]
        self.instance = start(kanidmd, directory / "first", settings)
        self.issuer = self.instance.origin
        try:
            trio.run(self._provision)
        except BaseException:
            self.close()
            raise

    async def _provision(self) -> None:
        self.admin_password = await self.instance.administrator()
        async with self.instance.rest() as rest:
            await rest.login("idm_admin", self.admin_password)
            await rest.create_person(CAROL.name, "Carol Cold", mail=["carol@example.com"])
            await rest.set_password(CAROL.name, CAROL.password)
            uris = {
                "flow-other": WITH_QUERY,
                "flow-strict": "https://strict.localhost/cb",
                "flow-mapped": "https://mapped.localhost/cb",
            }
            for name, uri in uris.items():
                await rest.create_client(name, f"The {name} client", uri)
                await rest.patch_client(name, {"oauth2_allow_insecure_client_disable_pkce": ["true"]})
                await rest.set_scopes(name, "kiwi_users", demo.SCOPES)
            await rest.call("POST", "/v1/oauth2/flow-other/_claimmap/role/kiwi_users", ["reader", "writer"])
            for claim in PROTOCOL_CLAIMS:
                await rest.call("POST", f"/v1/oauth2/flow-mapped/_claimmap/{claim}/kiwi_users", ["mapped"])
            await rest.create_client("flow-app", "The app", APP_URI, public=True)
            await rest.set_scopes("flow-app", "kiwi_users", demo.SCOPES)
            secrets = {name: await rest.client_secret(name) for name in uris}
        self.demo = Client("kiwi-demo", self.instance.secret(), demo.REDIRECT_URI)
        self.public = Client("kiwi-demo-public", None, "http://localhost:3000/any?x=1")
        self.other = Client("flow-other", secrets["flow-other"], WITH_QUERY)
        self.strict = Client("flow-strict", secrets["flow-strict"], "https://strict.localhost/cb")
        self.mapped = Client("flow-mapped", secrets["flow-mapped"], "https://mapped.localhost/cb")
        self.app = Client("flow-app", None, APP_URI)
        self.note(self.instance.secret(), self.admin_password, *secrets.values())

    def note(self, *found: str) -> None:
        """Remember secrets, which no log may hold."""
        self.secrets.update(secret for secret in found if len(secret) >= 12)

    def tab(self, at: Instance | None = None) -> Tab:
        """Return a new browser; ``at`` another Kiwi ID than the first."""
        return Tab((at or self.instance).origin, self.instance.ca, self.note)

    def asked(self, client: Client | None = None, /, **extra: str | None) -> Asked:
        """Return a new request of ``client`` (by default the demo's confidential one)."""
        return Asked(client or self.demo, extra=dict(extra))

    @asynccontextmanager
    async def rest_as_admin(self) -> AsyncIterator[Kanidm]:
        """A REST client signed in as the administrator of people and clients."""
        async with self.instance.rest() as rest:
            self.note(await rest.login("idm_admin", self.admin_password))
            yield rest

    async def person(self, name: str) -> Person:
        """Make a person who may use all clients."""
        person = Person(name, "marble-thistle-cascade-92")
        async with self.rest_as_admin() as rest:
            await rest.create_person(name, name.title(), mail=[f"{name}@example.com"])
            await rest.add_members("kiwi_users", name)
            await rest.set_password(name, person.password)
        return person

    @property
    def places(self) -> layout.Places:
        """The files of the first instance."""
        return layout.Places.under(self.instance.directory)

    def verified(self, token: str, public: Path | None = None, audience: str = "kiwi-demo") -> dict[str, Any]:
        """Check a token as a service does that has nothing but the one public key; return its claims."""
        key: Any = load_pem_public_key((public or self.places.jwt_public_key).read_bytes())
        algorithm = jwt.get_unverified_header(token)["alg"]
        assert algorithm in ("RS256", "ES256", "EdDSA")
        claims: dict[str, Any] = jwt.decode(token, key, algorithms=[algorithm], audience=audience, issuer=self.issuer)
        return claims

    # -- further Kiwi IDs over the same kanidmd -----------------------------------------------------------------------------

    async def replica(self, *, kind: keys.Kind | None = None, settings: Sequence[str] = ()) -> Instance:
        """Start another Kiwi ID over the first one's kanidmd: same keys, or new ones of ``kind``; its child only idles.

        Its issuer is the first one's. ``settings`` are further lines of config.toml, in the place of those with the same key.
        """
        directory = self._directory / f"replica-{len(self._replicas)}"
        places, first = layout.Places.under(directory), self.places
        for path in (places.config, places.upstream_config, places.upstream_bin, places.log_file, places.database):
            path.parent.mkdir(parents=True)
        for name in ("jwt_private_key", "jwt_public_key"):
            shutil.copy2(getattr(first, name), getattr(places, name))
        if kind is not None:
            keys.generate_pair(places.jwt_private_key, places.jwt_public_key, kind=kind)
        places.upstream_bin.write_text(_IDLER.format(python=sys.executable))
        places.upstream_bin.chmod(0o755)
        port = free_port()
        changed = {
            "listen_addr": f"127.0.0.1:{port}",
            "upstream_bin": str(places.upstream_bin),
            "upstream_config": str(places.upstream_config),
            "jwt_private_key": str(places.jwt_private_key),
            "jwt_public_key": str(places.jwt_public_key),
            "runtime_dir": str(places.runtime_dir),
            "log_file": str(places.log_file),
        }
        text = first.config.read_text()
        for line in [f'{name} = "{value}"' for name, value in changed.items()] + list(settings):
            name = line.partition(" = ")[0]
            text = f"{line}\n" + re.sub(rf"^{re.escape(name)} = .*\n", "", text, flags=re.MULTILINE)
        places.config.write_text(text)
        server = re.sub("^db_path = .*$", f'db_path = "{places.database}"', first.upstream_config.read_text(), flags=re.MULTILINE)
        places.upstream_config.write_text(server)
        instance = await _launch(directory, f"https://localhost:{port}", server_toml.load(places.upstream_config))
        self._replicas.append(instance)
        return instance

    async def restart(self, instance: Instance) -> None:
        """Stop a Kiwi ID and start it again from its files; the first one's kanidmd is restarted with it."""
        assert await trio.to_thread.run_sync(instance.stop) == 0
        instance.process = (await _launch(instance.directory, instance.origin, instance.server)).process

    def close(self) -> None:
        """Stop everything that runs, and prove that no log holds a secret."""
        self.receiver.close()
        for instance in [*self._replicas, getattr(self, "instance", None)]:
            if instance is not None:
                instance.stop(signal.SIGTERM)

    def leaks(self) -> list[str]:
        """Return where a secret stands in a log, with some of the line around it."""
        found = []
        for instance in [self.instance, *self._replicas]:
            for file in (instance.directory / "stderr.log", layout.Places.under(instance.directory).log_file):
                text = file.read_text(errors="replace")
                assert "/oauth2/" in text, f"{file} does not even tell of the requests"
                # Most of a log is the same words again: a secret without spaces can only be in one of its different words.
                words = "\n".join(set(_WORD.findall(text)))
                for form in {form for secret in self.secrets for form in (secret, quote(secret, safe=""))}:
                    if form in (words if _WORD.fullmatch(form) else text):
                        at = text.find(form)
                        found.append(f"{file.name}: {text[max(at - 300, 0) : at + len(form) + 20]}")
        return found


def _spawn(directory: Path) -> subprocess.Popen[bytes]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("KIWI_", "KANIDM_"))}
    command = [sys.executable, "-m", "kiwi_id", "run", "--config", str(layout.Places.under(directory).config)]
    with (directory / "stderr.log").open("ab") as log:
        return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)


async def _launch(directory: Path, origin: str, server: server_toml.ServerToml) -> Instance:
    process = _spawn(directory)
    instance = Instance(directory, origin, server, process)
    try:
        await instance.wait_ready()
    except BaseException:
        process.kill()
        process.wait()
        raise
    return instance
