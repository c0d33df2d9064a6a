"""People whose password hash has a chosen cost, imported into Kanidm as a migration from a directory would do it.

How long kanidmd's Argon2 takes is decided at its start, by a measurement that aims at 10 ms; on another machine, and for a hash
that came from elsewhere, it takes what its parameters say. Kanidm keeps an imported argon2id hash as it is (libs/crypto/src/lib.rs,
``requires_upgrade``), so a login can be measured with a password of a stated price.
"""

from __future__ import annotations

import secrets
import ssl
import uuid

from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from kiwi_id.kanidm.rest import Kanidm

_SCHEMAS = [f"urn:ietf:params:scim:schemas:kanidm:sync:1:{kind}" for kind in ("account", "person")]


def phc(password: str, memory: int, passes: int) -> str:
    """Return the hash of ``password`` for ``memory`` KiB and that many passes, as Kanidm imports it."""
    kdf = Argon2id(salt=secrets.token_bytes(16), length=32, iterations=passes, lanes=1, memory_cost=memory)
    return "{ARGON2}" + kdf.derive_phc_encoded(password.encode())


class Importer:
    """A sync agreement with Kanidm, through which people are imported (its SCIM import)."""

    def __init__(self, url: str, context: ssl.SSLContext, token: str) -> None:
        self._url, self._context, self._token = url, context, token

    @classmethod
    async def make(cls, url: str, context: ssl.SSLContext, administrator: Kanidm) -> Importer:
        """Make the agreement. ``administrator`` is signed in as admin; idm_admin may not."""
        name = f"bench_{secrets.token_hex(4)}"
        await administrator.call("POST", "/v1/sync_account", {"attrs": {"name": [name]}})
        return cls(url, context, await administrator.call("POST", f"/v1/sync_account/{name}/_sync_token", "bench"))

    async def people(self, names: list[str], password: str, memory: int, passes: int) -> None:
        """Import people of these names, all with that password; once, for each agreement."""
        hashed = phc(password, memory, passes)
        entries = [
            {
                "schemas": _SCHEMAS,
                "id": str(uuid.uuid4()),
                "externalId": f"uid={name}",
                "name": name,
                "displayname": "Person",
                "password_import": hashed,
                "mail": [{"value": f"{name}@example.com", "primary": True}],
            }
            for name in names
        ]
        after = {"Active": {"cookie": secrets.token_urlsafe(12)}}
        change = {"from_state": "Refresh", "to_state": after, "entries": entries, "retain": "Ignore"}
        async with Kanidm(self._url, self._context) as importer:
            headers = {"authorization": f"Bearer {self._token}"}
            await importer.call("POST", "/scim/v1/Sync", change, headers=headers)
