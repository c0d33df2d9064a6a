"""One entry of a state file → Kanidm's calls: what it is made with, and what changes it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import datetime
from functools import partial

from kiwi_id.identities import marks
from kiwi_id.identities.diff import Change, Step
from kiwi_id.identities.model import Claim, Client, Kind, Policy, Posix
from kiwi_id.identities.observe import POLICY_ATTRS, policy_text
from kiwi_id.kanidm import entries
from kiwi_id.kanidm.entries import Mod, replace
from kiwi_id.kanidm.rest import Entry, Kanidm, KanidmRefused

Resolve = Callable[[str], str]
"""Name → UUID where it is known, else the name, which Kanidm resolves by itself."""

_TEXTS = {
    "display_name": "displayname",
    "legal_name": "legalname",
    "description": "description",
    "landing": "oauth2_rs_origin_landing",
}
_FLAGS = {
    "strict_redirect_uris": ("oauth2_strict_redirect_uri", True),
    "localhost_redirect": ("oauth2_allow_localhost_redirect", True),
    "pkce": ("oauth2_allow_insecure_client_disable_pkce", False),
    "consent_prompt": ("oauth2_consent_prompt_enable", True),
    "short_username": ("oauth2_prefer_short_username", True),
    "legacy_crypto": ("oauth2_jwt_legacy_crypto_enable", True),
}
"""Kanidm's attribute, and what it says when ours is true."""
_TIMES = {"expires": "account_expire", "valid_from": "account_valid_from"}
_CLASSES: dict[Kind, list[str]] = {
    "person": ["account", "object", "person"],
    "group": ["group", "object"],
    "service_account": ["account", "object", "service_account"],
    "client": ["account", "object", "oauth2_resource_server"],
}
# What an entry can be made with; the rest follows in calls of its own, and is found missing by the next diff after a crash.
_AT_ONCE = frozenset(
    {"display_name", "mail", "description", "managed_by", "landing", "redirect_uris", "strict_redirect_uris", *_TIMES}
)


def creation(step: Step, uuid: str, resolve: Resolve, there: Callable[[str], bool]) -> tuple[Entry, tuple[Change, ...]]:
    """Return the attributes to create an entry with, and the changes that must follow.

    Of members and managers those that are ``there`` are set at once. ``uuid`` marks persons and groups as ours; it is empty for
    all others, which the description marks.
    """
    attrs: Entry = {"class": list(_CLASSES[step.kind]), "name": [step.name]}
    if isinstance(step.entry, Client):
        attrs["class"].append(f"oauth2_resource_server_{step.entry.type}")
    attrs |= {"uuid": [uuid]} if uuid else {"description": [marks.description(step.name)]}
    later = []
    for change in step.changes:
        if change.field == "members":
            now = frozenset(filter(there, change.after))
            attrs |= {"member": [resolve(name) for name in sorted(now)]} if now else {}
            if now != change.after:
                later.append(Change("members", now, change.after))
        elif change.field not in _AT_ONCE or (change.field == "managed_by" and not there(change.after)):
            later.append(change)
        else:
            for mod in _mods(change, step.kind, resolve):
                match mod.get("present"):
                    case [attr, value]:
                        attrs.setdefault(attr, []).append(value)
    return attrs, tuple(later)


async def change(kanidm: Kanidm, kind: Kind, key: str, changes: Iterable[Change], resolve: Resolve) -> list[tuple[Change, str]]:
    """Carry out changes of the entry whose UUID or name is ``key``.

    Returns what Kanidm refused, each with the reason in words, after doing the others. Raises KanidmUnreachable.
    """
    refused: list[tuple[Change, str]] = []

    async def attempt(one: Change, call: Callable[[], Awaitable[None]]) -> None:
        try:
            await call()
        except KanidmRefused as error:
            refused.append((one, f"{one.field}: {explain(error, one.field)}"))

    changes = list(changes)
    plain = [(one, _mods(one, kind, resolve)) for one in changes if one.field not in _SPECIAL]
    try:
        if len(plain) > 1:
            await entries.modify(kanidm, key, [mod for _, mods in plain for mod in mods])
            plain = []
    except KanidmRefused:
        pass  # one that is refused must not keep back the others: each by itself, then
    for one, mods in plain:
        await attempt(one, partial(entries.modify, kanidm, key, mods))
    for one in changes:
        if one.field in _SPECIAL:
            await attempt(one, partial(_SPECIAL[one.field], kanidm, key, one, resolve))
    return refused


def explain(error: KanidmRefused, field: str = "") -> str:
    """Return Kanidm's refusal with what a person needs to know of it."""
    text = str(error)
    if "attrunique" in text or error.status == 409:
        return f"{text}. Something else in Kanidm has that name, mail address or gid already."
    if error.status == 403 and field == "posix":
        return f"{text}. Kanidm lets Kiwi ID's account take POSIX attributes from no person."
    if error.status == 403 and field == "managed_by":
        return f"{text}. Kanidm 1.5 lets idm_access_control_admins alone change who manages a group; we set it when we make one."
    if error.status == 403:
        return f"{text}. Kanidm lets administrators of high privilege alone change what has high privilege (idm_admin, by hand)."
    if "invalidattributename" in text and field == "consent_prompt":
        return f"{text}. Kanidm has had it since 1.9 only."
    return text


def _mods(one: Change, kind: Kind, resolve: Resolve) -> list[Mod]:
    field, after = one.field, one.after
    if field in _TEXTS:
        return replace(_TEXTS[field], [after] if after else [])
    if field == "name":
        return replace("name", [after])
    if field in _FLAGS:
        attr, meaning = _FLAGS[field]
        return replace(attr, [str(after == meaning).lower()])
    if field in _TIMES:
        moment: datetime = after
        return replace(_TIMES[field], [moment.strftime("%Y-%m-%dT%H:%M:%SZ")])
    match field:
        case "mail":
            return replace("mail", after if kind == "person" else sorted(after))
        case "redirect_uris":
            return replace("oauth2_rs_origin", sorted(after))
        case "managed_by":
            return replace("entry_managed_by", [resolve(after)] if after else [])
        case "members":
            gone: list[Mod] = [{"removed": ["member", resolve(name)]} for name in sorted(one.before - after)]
            return gone + [{"present": ["member", resolve(name)]} for name in sorted(after - one.before)]
        case "posix":
            return _posix(one.before, after, "posixgroup" if kind == "group" else "posixaccount")
        case "policy":
            return _policy(one.before, after)
    raise AssertionError(field)


def _posix(before: Posix | None, after: Posix | None, cls: str) -> list[Mod]:
    shell = cls == "posixaccount"
    if after is None:
        mods: list[Mod] = [{"removed": ["class", cls]}, {"purged": "gidnumber"}]
        return mods + ([{"purged": "loginshell"}] if shell else [])
    mods = [] if before else [{"present": ["class", cls]}]
    if after.gid is not None:
        mods += replace("gidnumber", [str(after.gid)])
    return mods + (replace("loginshell", [after.shell] if after.shell else []) if shell else [])


def _policy(before: Policy | None, after: Policy | None) -> list[Mod]:
    # Only what differs: of its own groups Kanidm protects the class and what it does not have for change (plugins/protected.rs).
    mods: list[Mod] = [{"present": ["class", "account_policy"]}] if before is None else []
    for field, attr in POLICY_ATTRS.items():
        old, new = (getattr(policy, field) if policy else None for policy in (before, after))
        if old != new:
            mods += replace(attr, [policy_text(new)] if new is not None else [])
    return mods if after else [*mods, {"removed": ["class", "account_policy"]}]


async def _ssh_keys(kanidm: Kanidm, key: str, one: Change, resolve: Resolve) -> None:
    before: Mapping[str, str] = one.before
    after: Mapping[str, str] = one.after
    for label, public in before.items():
        if after.get(label) != public:
            await entries.remove_ssh_key(kanidm, key, label)
    for label, public in after.items():
        if before.get(label) != public:
            await entries.set_ssh_key(kanidm, key, label, public)


async def _scopes(kanidm: Kanidm, key: str, one: Change, resolve: Resolve) -> None:
    for group in sorted({*one.before, *one.after}):
        if one.before.get(group) != one.after.get(group):
            scopes = sorted(one.after.get(group, ()))
            await entries.set_scopes(kanidm, key, resolve(group), scopes, supplementary=one.field == "supplementary_scopes")


async def _claims(kanidm: Kanidm, key: str, one: Change, resolve: Resolve) -> None:
    nothing = Claim()
    for name in sorted({*one.before, *one.after}):
        before, after = one.before.get(name, nothing), one.after.get(name, nothing)
        # What is added comes first: a claim that loses its last value loses how it is joined, too.
        for group in sorted({*before.values, *after.values}, key=lambda group: (group not in after.values, group)):
            if before.values.get(group) != after.values.get(group):
                await entries.set_claim(kanidm, key, name, resolve(group), sorted(after.values.get(group, ())))
        # A claim that lost its last group with the group shows no more, and may be joined as it was before all the same.
        if name in one.after and (name not in one.before or before.join != after.join):
            await entries.set_claim_join(kanidm, key, name, after.join)


_SPECIAL: dict[str, Callable[[Kanidm, str, Change, Resolve], Awaitable[None]]] = {
    "ssh_keys": _ssh_keys,
    "scopes": _scopes,
    "supplementary_scopes": _scopes,
    "claims": _claims,
}
"""Fields that Kanidm takes by paths of their own only."""
