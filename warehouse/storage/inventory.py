"""What a warehouse already contains, as far as an ingest needs it to do only what is new."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Sighting:
    """A model's newest sighting of one kind: of weights or of an analysis."""

    fingerprint: str | None
    stats_level: str | None
    checkpoint_id: str
    params: int | None
    device: str | None = None


@dataclass(frozen=True)
class DescribedBase:
    """A base that analysis files described."""

    checkpoint_id: str
    num_layers: int | None


@dataclass
class Inventory:
    """Models by their present names: after renames, without dropped ones.

    `sightings` are by model and source kind, `bases` by declared name and parameters. `unlinked_results` are result files
    without a model. `comparisons` has the last base of each checkpoint. Pairs are of a checkpoint and its base: `related`
    those whose tensors were compared, `unexplained` those of them where stored rows do not say how some tensor differs, and
    `unit_pairs` those whose units were matched. `checkpoints_with_units` are the checkpoints whose units were read.
    """

    sightings: dict[tuple[str, str], Sighting] = field(default_factory=dict)
    models_by_folder: dict[str, str] = field(default_factory=dict)
    folders_by_model: dict[str, str] = field(default_factory=dict)
    models_by_result: dict[str, str] = field(default_factory=dict)
    unlinked_results: set[str] = field(default_factory=set)
    results: set[str] = field(default_factory=set)
    checkpoints: set[str] = field(default_factory=set)
    comparisons: dict[str, str] = field(default_factory=dict)
    related: set[tuple[str, str]] = field(default_factory=set)
    unexplained: set[tuple[str, str]] = field(default_factory=set)
    checkpoints_with_units: set[str] = field(default_factory=set)
    unit_pairs: set[tuple[str, str]] = field(default_factory=set)
    bases: dict[tuple[str | None, int], list[DescribedBase]] = field(default_factory=dict)
