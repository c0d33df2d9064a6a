"""Steps → Kanidm. Each call leaves a state from which the next apply goes on, so a crash at any point costs nothing but time.

The order: remove, adopt (the list of adopted entries first, so that nothing is changed that is not noted as ours), rename, give up
mail addresses that others get, create persons, groups, service accounts and clients in batches, and then change each entry.
Kanidm refuses a batch as a whole; then its entries are tried one by one, so that one with a mistake keeps back itself only.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import trio

from kiwi_id.errors import Exit, KiwiError
from kiwi_id.identities import marks, write
from kiwi_id.identities.diff import Change, Difference, Step
from kiwi_id.identities.model import KINDS, MARK_GROUP
from kiwi_id.identities.observe import REST_KINDS, Found
from kiwi_id.kanidm import entries
from kiwi_id.kanidm.rest import Kanidm, KanidmRefused

BATCH = 50
"""Entries created in one transaction: after that, a larger one gains little, and holds up logins for longer."""
IN_FLIGHT = 4
"""Calls at once. Kanidm writes one transaction after the other; more than a few would only wait there."""
T = TypeVar("T")


class TooManyRemovals(KiwiError):
    """So much would be removed that a person must have wanted it: a lost file of a directory looks the same. Exit code 78."""

    exit_code = Exit.CONFIG


@dataclass(frozen=True, slots=True)
class Done:
    """A step that was carried out, or could not be: ``refused`` has Kanidm's reasons. ``count`` of ``total`` steps are done."""

    step: Step
    refused: tuple[str, ...]
    count: int
    total: int


Report = Callable[[Done], None]


async def apply(
    kanidm: Kanidm, difference: Difference, found: Found, report: Report = lambda done: None, *, remove_many: bool = False
) -> list[Done]:
    """Carry the steps out; return those that were refused in whole or part. Each is told to ``report`` when it is done.

    Raises TooManyRemovals before anything is done (unless ``remove_many``), and KanidmUnreachable: then apply once more.
    """
    if difference.removals > difference.removals_allowed and not remove_many:
        raise TooManyRemovals(
            f"{difference.removals} entries would be removed, more than {difference.removals_allowed}. Is a state file missing? "
            "If it is meant: kiwi-id apply --remove-many"
        )
    work = _Work(kanidm, found, report, len(difference.steps))
    try:
        await work.run(difference.steps)
    except BaseExceptionGroup as group:  # what ended the nursery; the first reason is enough
        raise _first(group) from None
    return work.refused


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


@dataclass(slots=True)
class _Work:
    kanidm: Kanidm
    found: Found
    report: Report
    total: int
    count: int = 0
    refused: list[Done] = field(default_factory=list)
    keys: dict[str, str] = field(default_factory=dict)
    """What is there now, by the name it is to have, as the paths of calls want it: its UUID, or of clients the name it has."""
    uuids: dict[str, str] = field(default_factory=dict)
    """What a name of the file means: a UUID, for Kanidm would take whoever has the name by now. Without it: Kanidm's own word."""
    there: set[str] = field(default_factory=set)
    """The names, as they are to be, of what can be referred to now."""
    rest: list[tuple[Step, tuple[Change, ...]]] = field(default_factory=list)
    again: list[tuple[Step, tuple[Change, ...]]] = field(default_factory=list)

    async def run(self, steps: Sequence[Step]) -> None:
        # The paths of OAuth2 clients take names only; with a UUID Kanidm finds nothing (server/core/src/https/v1_oauth2.rs).
        self.keys = {name: name if name in self.found.identities.clients else uuid for name, uuid in self.found.uuids.items()}
        self.uuids = dict(self.found.uuids)
        self.there = set(self.found.uuids)

        def of(action: str) -> list[Step]:
            return [step for step in steps if step.action == action]

        await self._each(of("remove"), self._remove)
        await self._adopt(of("adopt"))
        await self._rename_all(of("rename"))
        await self._each(list(_giving_up(of("create") + of("change"))), self._give_up)
        for kind in KINDS:
            for batch in _batches([step for step in of("create") if step.kind == kind]):
                await self._create(batch)
        self.rest += [(step, step.changes) for step in of("change")]
        await self._each(self.rest, self._change)
        # What one gives up another may get: a gid, say. So what was refused has a second try when all else is done.
        self.rest, self.again = self.again, []
        await self._each(self.rest, self._change_again)

    async def _each(self, items: Sequence[T], call: Callable[[T], Awaitable[None]]) -> None:
        """Call for each, some at once; the order of beginning is kept."""
        todo = iter(items)

        async def worker() -> None:
            for item in todo:
                await call(item)

        async with trio.open_nursery() as nursery:
            for _ in range(min(IN_FLIGHT, len(items))):
                nursery.start_soon(worker)

    def _done(self, step: Step, refused: Sequence[str] = ()) -> None:
        self.count += 1
        done = Done(step, tuple(refused), self.count, self.total)
        if refused:
            self.refused.append(done)
        self.report(done)

    def _resolve(self, name: str) -> str:
        return self.uuids.get(name, name)

    def _key(self, step: Step) -> str:
        return self.keys.get(step.name, step.name)

    async def _remove(self, step: Step) -> None:
        try:
            await entries.delete(self.kanidm, REST_KINDS[step.kind], self.keys[step.current])
        except KanidmRefused as error:
            self._done(step, [write.explain(error)])
        else:
            del self.keys[step.current]
            self._done(step)
        # What else has this name in the file is another, also when this one stays.
        self.uuids.pop(step.current)
        self.there.discard(step.current)

    async def _adopt(self, steps: Sequence[Step]) -> None:
        if not steps:
            return
        there = {uuid for name, uuid in self.found.uuids.items() if name in self.keys}
        kept = {uuid: name for uuid, name in self.found.adopted.items() if uuid in there}
        text = marks.list_text(kept | {self.found.uuids[step.current]: step.name for step in steps})
        try:
            if MARK_GROUP in self.keys:
                await entries.modify(self.kanidm, self.keys[MARK_GROUP], entries.replace("description", [text]))
            else:
                uuid = marks.new_uuid("group", MARK_GROUP)
                attrs = {"class": ["group", "object"], "name": [MARK_GROUP], "uuid": [uuid], "description": [text]}
                await entries.create_many(self.kanidm, [attrs])
        except KanidmRefused as error:
            # Without the note they are not ours, and nothing else may be done to them.
            raise KanidmRefused(f"Nothing was adopted: {write.explain(error)}", error.status) from None
        for step in steps:
            self._done(step)

    async def _rename_all(self, steps: Sequence[Step]) -> None:
        """Rename, each when nobody has its name any more; where names go round in a circle, one steps aside first.

        One that a crash leaves aside is known by its mark, and renamed by the next apply.
        """
        paths = {step.current: self.keys.pop(step.current) for step in steps}
        # From here on the name means this entry, even when Kanidm refuses to call it so.
        self.keys |= {step.name: step.current if step.kind == "client" else paths[step.current] for step in steps}
        self.uuids |= {step.name: self.found.uuids[step.current] for step in steps}
        self.there = (self.there - paths.keys()) | {step.name for step in steps}
        todo = {step.current: step for step in steps}
        while todo:
            free = [step for step in todo.values() if step.name not in todo]
            if not free:
                step = next(iter(todo.values()))
                aside = f"renaming-{secrets.token_hex(8)}"
                if not await self._call_it(step, aside):
                    del todo[step.current]
                    todo[aside] = step
                    continue
                free = [step]  # Kanidm refuses, and says why
            for step in free:
                del todo[next(current for current, one in todo.items() if one is step)]
            await self._each(free, self._rename)

    async def _rename(self, step: Step) -> None:
        self._done(step, await self._call_it(step, step.name))

    async def _call_it(self, step: Step, name: str) -> list[str]:
        change = Change("name", step.current, name)
        refused = await write.change(self.kanidm, step.kind, self.keys[step.name], [change], self._resolve)
        if not refused and step.kind == "client":
            self.keys[step.name] = name
        return [words for _, words in refused]

    async def _give_up(self, item: tuple[Step, Change]) -> None:
        step, one = item
        await write.change(self.kanidm, step.kind, self._key(step), [one], self._resolve)

    async def _create(self, steps: Sequence[Step]) -> None:
        # Kanidm lets nobody choose the UUID of a service account or client; those can be named only when they are there.
        chosen = {step.name: marks.new_uuid(step.kind, step.name) for step in steps if step.kind in ("person", "group")}

        self.uuids |= chosen

        def there(name: str) -> bool:
            return name in chosen or name in self.there

        made = [(step, *write.creation(step, chosen.get(step.name, ""), self._resolve, there)) for step in steps]
        try:
            await entries.create_many(self.kanidm, [attrs for _, attrs, _ in made])
        except KanidmRefused as error:
            if len(steps) == 1:
                # Whoever has the name now is another, and nothing that was meant for this one may go there.
                self.uuids[steps[0].name] = marks.new_uuid(steps[0].kind, steps[0].name)
                self._done(steps[0], [write.explain(error)])
            for step in steps if len(steps) > 1 else ():
                await self._create([step])
            return
        self.keys |= {step.name: chosen.get(step.name, step.name) for step in steps}
        self.there |= {step.name for step in steps}
        for step, _, later in made:
            if later:
                self.rest.append((step, later))
            else:
                self._done(step)

    async def _change(self, item: tuple[Step, tuple[Change, ...]]) -> None:
        step, changes = item
        refused = await write.change(self.kanidm, step.kind, self._key(step), changes, self._resolve)
        if refused:
            self.again.append((step, tuple(one for one, _ in refused)))
        else:
            self._done(step)

    async def _change_again(self, item: tuple[Step, tuple[Change, ...]]) -> None:
        step, changes = item
        refused = await write.change(self.kanidm, step.kind, self._key(step), changes, self._resolve)
        self._done(step, [words for _, words in refused])


def _batches(steps: Sequence[Step]) -> Iterator[list[Step]]:
    """Yield the steps in batches; who manages a group comes before it or with it, for Kanidm 1.5 lets nobody set that later."""
    left = {step.name: step for step in steps}
    batch: list[Step] = []
    for step in steps:
        chain: list[Step] = []
        name = step.name
        while name in left:
            chain.append(left.pop(name))
            name = getattr(chain[-1].entry, "managed_by", "")
        if batch and len(batch) + len(chain) > BATCH:
            yield batch
            batch = []
        batch += reversed(chain)
    if batch:
        yield batch


def _giving_up(steps: Sequence[Step]) -> Iterator[tuple[Step, Change]]:
    """Yield what must be changed first, because it has mail addresses that somebody else gets: Kanidm has each once."""
    mails = [(step, one) for step in steps for one in step.changes if one.field == "mail"]
    getting = {address: step.name for step, one in mails for address in set(one.after) - set(one.before)}
    for step, one in mails:
        taken = {address for address in one.before if getting.get(address, step.name) != step.name}
        if taken:
            kept = type(one.before)(address for address in one.before if address not in taken)
            yield step, Change("mail", one.before, kept)
