"""What a warehouse holds already, as far as an ingest has to know to do only what is new."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Sighting:
    """A model's newest sighting of one kind (weights or analysis)."""

    fingerprint: str | None
    stats_level: str | None
    checkpoint_id: str
    params: int | None
    device: str | None = None


@dataclass(frozen=True)
class KnownBase:
    """A base that analysis files described."""

    checkpoint_id: str
    num_layers: int | None


@dataclass
class Known:
    """Names are the present ones: after renames, without dropped models.

    `standing_alone` are results that no model was found for. `comparisons` has for each checkpoint the base that it was last
    compared with; `related` pairs of checkpoint and base whose tensors were related, `unexplained` those of them where rows
    leave open how tensors differ; `with_units` the checkpoints whose units were read, `unit_comparisons` pairs whose units were
    matched.
    """

    sightings: dict[tuple[str, str], Sighting] = field(default_factory=dict)
    models_by_folder: dict[str, str] = field(default_factory=dict)
    folders_by_model: dict[str, str] = field(default_factory=dict)
    models_by_result: dict[str, str] = field(default_factory=dict)
    standing_alone: set[str] = field(default_factory=set)
    results: set[str] = field(default_factory=set)
    checkpoints: set[str] = field(default_factory=set)
    comparisons: dict[str, str] = field(default_factory=dict)
    related: set[tuple[str, str]] = field(default_factory=set)
    unexplained: set[tuple[str, str]] = field(default_factory=set)
    with_units: set[str] = field(default_factory=set)
    unit_comparisons: set[tuple[str, str]] = field(default_factory=set)
    bases: dict[tuple[str | None, int], list[KnownBase]] = field(default_factory=dict)
