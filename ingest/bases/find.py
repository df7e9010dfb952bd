"""Find what the models of an ingest were made from, by stored rows, and compare those that have no base with what was found.

Of a large warehouse the probes alone are read, and of the kin that they show the tensors of the nearest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from layerhouse.ingest.bases.stored import (
    Row,
    StoredDescents,
    declared_parent,
    named_among,
    read_facts,
    read_outlines,
    with_parents,
)
from layerhouse.ingest.bases.texts import based_text, baseless_text
from layerhouse.ingest.compare_with_base import Comparer
from layerhouse.ingest.context import IngestContext
from layerhouse.ingest.lineage.clan import CENTRAL, NEAREST, Clan
from layerhouse.ingest.lineage.explain import CAST, LIKE, MASKED
from layerhouse.ingest.lineage.outline import Codes, Facts
from layerhouse.ingest.lineage.probes import Kinship, Union
from layerhouse.ingest.lineage.settle import Verdict, settle
from layerhouse.vocabulary import BaseMode, BaseRule, Descent, EventKind, SourceKind

WHOLE_CLAN = 200
"""Up to this many kin, all of them are compared with each other."""
NEAR_KIN, COMMON_PARENTS, MAX_WAITING = 16, 8, 1000
"""Of more kin: the nearest of each model, the ones that most have as their parent, and of those without a base this many."""
OPEN = (None, Descent.ALONE, Descent.KIN, Descent.SIBLING, Descent.ROOT)
"""Relations that a new relative can change."""
HAS_PARENT = (Descent.CHILD, Descent.COPY, Descent.MERGE)


@dataclass
class Found:
    """What was found of one checkpoint: its verdict, the ids of its parents and of the runner-up, and the rule."""

    verdict: Verdict
    parent: str | None = None
    second_parent: str | None = None
    runner_up: str | None = None
    rule: BaseRule | None = None
    nearest: str | None = None

    @property
    def row(self) -> Row:
        """The columns of its descent."""
        verdict = self.verdict
        shares = (None,) * 5 if verdict.explained is None else verdict.explained.shares
        has_parent = self.parent is not None
        return {
            "descent": str(verdict.relation),
            "parent_checkpoint_id": self.parent,
            "second_parent_checkpoint_id": self.second_parent,
            "parent_rule": None if self.rule is None else str(self.rule),
            "distance": verdict.distance if has_parent else None,
            "same_share": None if not has_parent or shares[0] is None or shares[1] is None else shares[0] + shares[1],
            "rounded_share": shares[CAST] if has_parent else None,
            "masked_share": shares[MASKED] if has_parent else None,
            "changed_share": shares[LIKE] if has_parent else None,
            "second_parent_share": None if verdict.merge is None else verdict.merge.share,
            "runner_up_checkpoint_id": self.runner_up,
            "runner_up_distance": verdict.rival_distance if self.runner_up is not None else None,
            "descent_confidence": verdict.confidence,
        }


@dataclass
class BaseFinder:
    """Finds the bases of models. With `is_whole` the descent of every model of the warehouse is settled anew."""

    context: IngestContext
    mode: BaseMode
    is_whole: bool = False
    found: dict[str, Found] = field(default_factory=dict)

    def run(self, model_ids: Sequence[str]) -> None:
        """Settle the descent of models whose rows are in the warehouse or wait for a commit, and compare them."""
        context, known = self.context, self.context.known
        batch = context.batch
        own = [sighting.checkpoint_id for name in model_ids if (sighting := known.sightings.get((name, SourceKind.WEIGHTS)))]
        if not own and not self.is_whole:
            return
        if batch.holds("tensors", "checkpoints", "descents"):
            batch.flush()
        stored = StoredDescents.read(context)
        targets = [*stored.names] if self.is_whole else [one for one in dict.fromkeys(own) if one in stored.names]
        targets = [one for one in targets if self.is_whole or not stored.is_settled(one)]
        if not targets:
            return
        missing = stored.add_missing_probes(context)
        facts = read_facts(context, stored.names)
        with context.taking("the descent of models"):
            self._settle(stored, facts, [one for one in targets if one in stored.probes and one in facts])
        self._break_circles(stored)
        rows = [stored.row(one, self.found[one].row) for one in self.found if self.found[one].row != stored.rows.get(one)]
        rows += [stored.row(one, {}) for one in missing if one not in self.found]
        if rows:
            context.batch.add({"descents": rows})
        for one, found in self.found.items():
            stored.rows[one] = found.row
        self._compare(stored, set(targets))

    def _settle(self, stored: StoredDescents, facts: dict[str, Facts], targets: Sequence[str]) -> None:
        kin_of = [one for one in stored.probes if one in facts]
        kinship = Kinship([stored.probes[one] for one in kin_of])
        places = {one: place for place, one in enumerate(kin_of)}
        groups = kinship.clans() if self.is_whole else _groups(kinship, [places[one] for one in targets])
        wanted = set(targets)
        for group in groups:
            ids = [kin_of[place] for place in group]
            if len(ids) == 1:
                self._settle_alone(ids[0], facts, stored)
                continue
            if not self.is_whole and len(ids) > WHOLE_CLAN:
                ids = sorted(self._context_of(stored, kinship, kin_of, group, wanted))
            self._settle_clan(ids, [places[one] for one in ids], kinship, facts, stored, wanted)

    def _settle_alone(self, one: str, facts: dict[str, Facts], stored: StoredDescents) -> None:
        """Settle one that is kin to none: an adapter by its files, and what has no signatures, as headers alone, not at all."""
        parent = declared_parent(facts[one], stored.names)
        if parent is not None:
            self.found[one] = Found(Verdict(Descent.CHILD), parent, rule=BaseRule.DECLARED)
        elif stored.probes[one].roles:
            self.found[one] = Found(Verdict(Descent.ALONE))

    def _context_of(
        self, stored: StoredDescents, kinship: Kinship, kin_of: Sequence[str], group: Sequence[int], wanted: Collection[str]
    ) -> set[str]:
        """Of many kin those that the descent of the wanted ones depends on."""
        own = [place for place in group if kin_of[place] in wanted]
        cosines = kinship.between(np.array(own), np.array(group))[0]
        nearest = np.argsort(-cosines, axis=1, kind="stable")[:, : NEAR_KIN + 1]
        chosen = {kin_of[group[place]] for place in nearest.ravel().tolist()} | {kin_of[place] for place in own}
        ids = [kin_of[place] for place in group]
        parents = Counter(parent for one in ids if (parent := stored.rows.get(one, {}).get("parent_checkpoint_id")) is not None)
        chosen |= {parent for parent, _ in parents.most_common(COMMON_PARENTS) if parent in stored.probes}
        chosen.update(kin_of[group[place]] for place in kinship.centre(group, COMMON_PARENTS))
        chosen |= set([one for one in ids if self._is_waiting(one)][:MAX_WAITING])
        return {one for one in with_parents(stored, chosen) if one in stored.probes and one in set(ids)}

    def _is_waiting(self, checkpoint_id: str) -> bool:
        """Whether a checkpoint has no base and may be given one."""
        known = self.context.known
        is_none = known.base_choices.get(checkpoint_id, ("", None))[0] == BaseRule.NONE
        return checkpoint_id not in known.comparisons and not is_none

    def _settle_clan(
        self,
        ids: Sequence[str],
        places: Sequence[int],
        kinship: Kinship,
        facts: dict[str, Facts],
        stored: StoredDescents,
        wanted: Collection[str],
    ) -> None:
        codes = Codes()
        outlines = dict(read_outlines(self.context, [facts[one] for one in ids], codes))
        near, central = kinship.nearest(places, NEAREST), kinship.centre(places, CENTRAL)
        clan = Clan.compared([outlines[one] for one in ids], codes, near, central)
        verdicts = settle(clan)
        for place, one in enumerate(ids):
            verdict = verdicts[place]
            relation = stored.rows.get(one, {}).get("descent")
            if one not in wanted and not (stored.is_settled(one) and (relation in OPEN or self._is_waiting(one))):
                continue
            self.found[one] = _found(clan, ids, place, verdict)
        self._follow_names(clan, ids, facts)

    def _follow_names(self, clan: Clan, ids: Sequence[str], facts: dict[str, Facts]) -> None:
        """Of two that could each be the other's parent, the one whose config was loaded from the other is its child."""
        among = {one: facts[one].names for one in ids}
        for place, one in enumerate(ids):
            found = self.found.get(one)
            if found is None or found.verdict.relation != Descent.KIN or not facts[one].declared_name:
                continue
            parents = named_among(str(facts[one].declared_name), among, one)
            if len(parents) != 1 or _descends(parents[0], one, self.found):
                continue
            explained = clan.pairs.get((ids.index(parents[0]), place))
            if explained is not None and explained.cost < 1:
                verdict = Verdict(Descent.CHILD, ids.index(parents[0]), explained=explained)
                self.found[one] = Found(verdict, parents[0], rule=BaseRule.DECLARED)
                above = self.found.get(parents[0])
                if above is not None and above.verdict.relation == Descent.KIN:
                    self.found[parents[0]] = Found(Verdict(Descent.ROOT))

    def _break_circles(self, stored: StoredDescents) -> None:
        """Give no parent to what would descend from itself through relatives whose descent was settled before."""
        for one in sorted(self.found):
            seen: set[str] = set()
            above = self.found[one].parent
            while above is not None and above not in seen and above != one:
                seen.add(above)
                row = self.found[above].row if above in self.found else stored.rows.get(above, {})
                above = row.get("parent_checkpoint_id")
            if above == one:
                self.found[one] = Found(Verdict(Descent.KIN), nearest=self.found[one].nearest)

    def _compare(self, stored: StoredDescents, fresh: Collection[str]) -> None:
        """Compare the checkpoints that have no base with the one that was found, base by base."""
        by_base: dict[str, list[str]] = {}
        for one, found in self.found.items():
            base = self._base(one, stored)
            if base is not None and self._is_waiting(one):
                by_base.setdefault(base, []).append(one)
            elif base is None and one in fresh and found.verdict.relation in (Descent.SIBLING, Descent.KIN):
                self._say(
                    EventKind.PASSED,
                    stored.names[one],
                    baseless_text(found.verdict.relation, self._name(found.nearest, stored)),
                )
        batch, known = self.context.batch, self.context.known
        for base, own in sorted(by_base.items()):
            comparer = Comparer(self.context)
            comparer.set_base(stored.names[base][0], is_among_models=False)
            comparer.compare_stored([stored.names[one][0] for one in own])
            choices = [
                {"checkpoint_id": one, "base_checkpoint_id": base, "base_rule": str(self.found[one].rule or BaseRule.FOUND)}
                for one in own
                if known.comparisons.get(one) == base
            ]
            if choices:
                batch.add({"base_choices": choices})
            for choice in choices:
                one = str(choice["checkpoint_id"])
                known.base_choices[one] = str(choice["base_rule"]), base
                found = self.found[one]
                parents = [
                    self._name(parent, stored) or "" for parent in (found.parent, found.second_parent) if parent is not None
                ]
                self._say(
                    EventKind.BASED, stored.names[one], based_text(stored.names[base][0], parents, found.verdict, found.rule)
                )
            batch.seal()
            batch.flush_if_due()

    def _base(self, one: str, stored: StoredDescents) -> str | None:
        """What a checkpoint is to be compared with: its parent, or the first of its ancestors."""
        found = self.found[one]
        if found.verdict.relation not in HAS_PARENT or found.parent is None:
            return None
        if self.mode == BaseMode.PARENT:
            return found.parent
        seen, top = {one}, found.parent
        while True:
            row = stored.rows.get(top, {})
            parent = row.get("parent_checkpoint_id")
            if parent is None or parent in seen or parent not in stored.names:
                return top
            seen.add(top)
            top = str(parent)

    def _say(self, kind: EventKind, names: Sequence[str], text: str) -> None:
        for name in names:
            self.context.report_event(kind, name, text)

    @staticmethod
    def _name(checkpoint_id: str | None, stored: StoredDescents) -> str | None:
        return None if checkpoint_id is None else stored.names[checkpoint_id][0]


def _groups(kinship: Kinship, own: Sequence[int]) -> list[list[int]]:
    """Some checkpoints with their kin; those that share kin are in one group."""
    everything = np.arange(len(kinship.widths))
    kin = kinship.between(np.array(own), everything)[1]
    union = Union(len(everything))
    involved = set(own)
    for row, other in zip(*np.nonzero(kin), strict=True):
        union.join(own[row], int(other))
        involved.add(int(other))
    groups: dict[int, list[int]] = {}
    for place in sorted(involved):
        groups.setdefault(union.top(place), []).append(place)
    return [*groups.values()]


def _found(clan: Clan, ids: Sequence[str], place: int, verdict: Verdict) -> Found:
    def id_of(position: int | None) -> str | None:
        return None if position is None else ids[position]

    costs = [(clan.pairs[other, place].cost, other) for other in clan.near[place] if (other, place) in clan.pairs]
    is_found = verdict.parent is not None
    return Found(
        verdict,
        id_of(verdict.parent),
        id_of(verdict.second_parent),
        id_of(verdict.rival) if is_found else None,
        BaseRule.FOUND if is_found else None,
        id_of(min(costs)[1]) if costs else None,
    )


def _descends(one: str, other: str, found: dict[str, Found]) -> bool:
    """Whether a checkpoint is the other one or comes from it, as far as was found."""
    return other in set(_ancestors(one, found))


def _ancestors(one: str, found: dict[str, Found]) -> Iterator[str]:
    seen: set[str] = set()
    current: str | None = one
    while current is not None and current not in seen:
        yield current
        seen.add(current)
        current = found[current].parent if current in found else None
