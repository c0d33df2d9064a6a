"""What is ours in Kanidm, so that an apply touches nothing else.

Persons and groups that we make get a UUID (version 8, RFC 9562 §5.8) that begins with "kiwi" and holds a hash of the name they
were made for: the mark is there with the entry or not at all, costs no call, survives a rename, and tells who was renamed. Kanidm
lets nobody choose the UUID of service accounts and OAuth2 clients, so those are marked by the description, in the same call that
makes them. Both can be read back and neither shows in a token, as membership in a group of ours would.

What was adopted has neither. The group ``kiwi_managed`` keeps a list of those in its description: an attribute that group
administrators may write in every version, where persons and service accounts have none.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from uuid import UUID

from kiwi_id.identities.model import Kind

_PREFIX = "6b697769"  # "kiwi"
_BUILTIN = ("00000000-0000-0000-0000-",)
_DESCRIPTION = "Kept by kiwi-id apply as "
_LIST = "Entries that kiwi-id apply has adopted; do not edit: "


def _hash(kind: Kind, name: str) -> str:
    return hashlib.sha256(f"{kind}\0{name}".encode()).hexdigest()[:7]


def new_uuid(kind: Kind, name: str) -> str:
    """Return a new marked UUID for an entry of that name. Its last 48 bits are random: Kanidm takes gid numbers from them."""
    digest, chance = _hash(kind, name), secrets.token_hex(8)
    return str(UUID(f"{_PREFIX}{digest[:4]}8{digest[4:]}{'89ab'[int(chance[0], 16) % 4]}{chance[1:]}"))


def is_marked(uuid: str) -> bool:
    """Return whether the entry of this UUID was made by us."""
    return uuid.startswith(f"{_PREFIX}-") and uuid[14] == "8"


def made_for(uuid: str, kind: Kind, name: str) -> bool:
    """Return whether a marked UUID was made for this name, whatever the entry is called now."""
    return is_marked(uuid) and uuid[9:13] + uuid[15:18] == _hash(kind, name)


def is_builtin(uuid: str) -> bool:
    """Return whether the entry is Kanidm's own (server/lib/src/constants/uuids.rs)."""
    return uuid.startswith(_BUILTIN)


def description(name: str) -> str:
    """Return the description that marks a service account or OAuth2 client made by us."""
    return _DESCRIPTION + name


def described_name(text: str) -> str | None:
    """Return the name in such a description, None for any other."""
    return text.removeprefix(_DESCRIPTION) if text.startswith(_DESCRIPTION) else None


def list_text(adopted: Mapping[str, str]) -> str:
    """Return the description of ``kiwi_managed``: ``adopted`` maps UUID to name."""
    return _LIST + json.dumps(dict(sorted(adopted.items())), separators=(",", ":"))


def read_list(text: str) -> dict[str, str]:
    """Return UUID and name of what was adopted. Raises ValueError for what is no such list: nothing may be guessed from it."""
    if not text:
        return {}
    found = json.loads(text.removeprefix(_LIST))
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found.values()):
        raise ValueError("no table of names")
    return found
