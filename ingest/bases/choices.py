"""Remember which base a user named for models, or that they are to have none."""

from __future__ import annotations

from collections.abc import Sequence

from layerhouse.ingest.context import IngestContext
from layerhouse.vocabulary import BaseRule, SourceKind


def remember_choices(context: IngestContext, model_ids: Sequence[str], base_id: str | None) -> None:
    """Add the choice of a base for models that are compared with it, or of none; not where it is the last choice already."""
    known = context.known
    choice = (str(BaseRule.NONE if base_id is None else BaseRule.NAMED), base_id)
    rows = {}
    for model_id in model_ids:
        sighting = known.sightings.get((model_id, SourceKind.WEIGHTS))
        if sighting is None or known.base_choices.get(sighting.checkpoint_id) == choice:
            continue
        if base_id is None or (sighting.checkpoint_id != base_id and known.comparisons.get(sighting.checkpoint_id) == base_id):
            rows[sighting.checkpoint_id] = {
                "checkpoint_id": sighting.checkpoint_id,
                "base_checkpoint_id": base_id,
                "base_rule": choice[0],
            }
    if rows:
        context.batch.add({"base_choices": [*rows.values()]})
        known.base_choices |= dict.fromkeys(rows, choice)
    if base_id is None:
        for checkpoint_id in rows:
            known.comparisons.pop(checkpoint_id, None)
