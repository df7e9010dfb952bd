"""What a warehouse already contains, as far as an ingest needs it to do only what is new."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Any

from layerhouse.version import RULES_VERSION


@dataclass(frozen=True)
class Sighting:
    """A model's newest sighting of one kind: of weights or of an analysis."""

    fingerprint: str | None
    stats_level: str | None
    checkpoint_id: str
    params: int | None
    device: str | None = None
    rules_version: int = RULES_VERSION

    @property
    def is_stale(self) -> bool:
        """Whether its rows were made by earlier rules."""
        return self.rules_version < RULES_VERSION


@dataclass(frozen=True)
class StoredBase:
    """A checkpoint that analyses may have as their base: one that files described, or one of a model without another base.

    `name` is what its files call it, `model_id` None if it is no model here.
    """

    checkpoint_id: str
    name: str | None
    params: int
    layer_params: int | None
    num_layers: int | None
    embedding_params: int | None
    lm_head_params: int | None
    status: str
    source_kind: str
    model_id: str | None


@dataclass(frozen=True)
class StoredResult:
    """The rows of one result file about one model, as they are stored, and the model that they are linked to.

    `written_name` is the name in the link, which the model had before it was renamed. `measures` are those of rows that name no
    model and have none. `link` has the further columns of a link that a drop has hidden.
    """

    result_id: str
    file_id: str | None
    source_uri: str
    model_id: str
    written_name: str
    rule: str
    declared_model: str | None = None
    adapter: str | None = None
    revision: str | None = None
    measures: frozenset[str] = frozenset()
    link: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Inventory:
    """Models by their present names: after renames, without dropped ones.

    `sightings` are by model and source kind. `bases` are checkpoints that analyses may be compared with, and `removals` the
    blocks of the base that the analysis of a checkpoint says were removed, with the base's number of layers.
    `unlinked_results` are result files without a model. `waiting_results` are these by their id, and those that name an
    adapter and have the model under it; `dropped_results` by the name that their dropped model had last, `dropped_folders`
    its folders; `results_by_hand` the models that a user linked, by the file and by the model, adapter and revision that
    the rows name. `former_names` has names that models were renamed from. `results` are those whose rows were made by the
    present rules, `stale_results` the others. `comparisons` has the last base of each checkpoint. Pairs are of a checkpoint
    and its base: `related` those whose tensors were compared, `unexplained` those of them where values would say how some
    tensor differs, `stale_related` those that were compared by earlier rules, and `unit_pairs` those whose units were matched.
    `stale_checkpoints` have rows of earlier rules alone. `checkpoints_with_units` are the checkpoints whose units were read.
    `base_choices` has the rule by which the base of a checkpoint was last chosen, and the base; those with the rule `none` are
    to have none.
    """

    sightings: dict[tuple[str, str], Sighting] = field(default_factory=dict)
    models_by_folder: dict[str, str] = field(default_factory=dict)
    folders_by_model: dict[str, str] = field(default_factory=dict)
    models_by_result: dict[str, str] = field(default_factory=dict)
    unlinked_results: set[str] = field(default_factory=set)
    waiting_results: dict[str, StoredResult] = field(default_factory=dict)
    dropped_results: dict[str, list[StoredResult]] = field(default_factory=dict)
    dropped_folders: dict[str, set[str]] = field(default_factory=dict)
    results_by_hand: dict[tuple[str, str | None, str | None, str | None], str] = field(default_factory=dict)
    former_names: dict[str, str] = field(default_factory=dict)
    results: set[str] = field(default_factory=set)
    stale_results: set[str] = field(default_factory=set)
    checkpoints: set[str] = field(default_factory=set)
    comparisons: dict[str, str] = field(default_factory=dict)
    related: set[tuple[str, str]] = field(default_factory=set)
    unexplained: set[tuple[str, str]] = field(default_factory=set)
    stale_related: set[tuple[str, str]] = field(default_factory=set)
    stale_checkpoints: set[str] = field(default_factory=set)
    checkpoints_with_units: set[str] = field(default_factory=set)
    unit_pairs: set[tuple[str, str]] = field(default_factory=set)
    bases: list[StoredBase] = field(default_factory=list)
    removals: dict[str, tuple[list[int], int | None]] = field(default_factory=dict)
    base_choices: dict[str, tuple[str, str | None]] = field(default_factory=dict)

    def forget(self, table: str, ids: Mapping[str, Set[str]]) -> None:
        """Forget rows of a table that were not written after all, by what their columns of ids hold."""
        checkpoints, results = ids["checkpoint_id"], ids["result_id"]
        pairs = {(checkpoint, base) for checkpoint in checkpoints for base in ids["base_checkpoint_id"]}
        if table in ("tensors", "layers"):
            self.checkpoints -= checkpoints
        elif table == "checkpoints":
            for key, sighting in list(self.sightings.items()):
                if key[0] in ids["model_id"] and sighting.checkpoint_id in checkpoints:
                    del self.sightings[key]
        elif table == "units":
            self.checkpoints_with_units -= checkpoints
        elif table in ("layer_matches", "base_choices"):
            for checkpoint in checkpoints:
                (self.comparisons if table == "layer_matches" else self.base_choices).pop(checkpoint, None)
        elif table == "tensor_matches":
            self.related -= pairs
        elif table == "unit_matches":
            self.unit_pairs -= pairs
        elif table in ("results", "links"):
            self.results -= results
            self.unlinked_results -= results
            self.stale_results -= results
            for result in results:
                self.models_by_result.pop(result, None)
                self.waiting_results.pop(result, None)
