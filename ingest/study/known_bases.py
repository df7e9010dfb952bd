"""The bases that are known, found by what their layers are: what files call them is an alias.

Comparison files name a base as they like (`original`, a path, its own name) and list only some of its layers. Two descriptions
are of one base if all that both state is equal; the checkpoint of the fullest one stands for it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from layerhouse.ingest.declarations.declare import declare
from layerhouse.ingest.study.same_layers import are_all_same, are_same, num_facts
from layerhouse.ingest.study.structures import Layer, Structure
from layerhouse.vocabulary import CheckpointStatus


@dataclass(frozen=True)
class KnownBase:
    """One description of a base, and the checkpoint of its rows.

    `names` are those that files give it, `models` those whose own checkpoint it is. `is_base` says that other models are
    compared with it already, `is_stored` that its rows are in the warehouse, `is_described` that files of another model tell of
    it. `is_listed` is false as long as its layers have not been read.
    """

    checkpoint_id: str
    structure: Structure
    status: str = CheckpointStatus.OK
    names: frozenset[str] = frozenset()
    models: frozenset[str] = frozenset()
    is_base: bool = False
    is_stored: bool = False
    is_listed: bool = True
    is_described: bool = True


GENERIC_NAMES = frozenset(
    {
        *("base", "base model", "baseline", "dense", "dense model", "model", "original", "original model", "pretrained"),
        *("unpruned", "unpruned model", "\u57fa\u7840\u6a21\u578b", "\u539f\u59cb\u6a21\u578b", "\u539f\u6a21\u578b"),
    }
)
"""Names that scripts give any base, in lower case; the last ones are Chinese for base model and original model."""

LoadLayers = Callable[[Collection[str]], Mapping[str, Sequence[Layer]]]
"""The stored layers of checkpoints, by their ids."""


@dataclass
class KnownBases:
    """Descriptions of bases by their number of parameters. Layers of stored ones are read when a search needs them."""

    load_layers: LoadLayers
    _by_params: dict[int, dict[str, KnownBase]] = field(default_factory=dict)
    _found: dict[tuple[str, str | None], KnownBase | None] = field(default_factory=dict)
    """What was found for structures by their ids and names, until something is added."""

    def add(self, base: KnownBase) -> None:
        """Add a description, or names and models to one that is known."""
        bases = self._by_params.setdefault(base.structure.params, {})
        known = bases.get(base.checkpoint_id)
        if known is None:
            bases[base.checkpoint_id] = base
        else:
            fuller = base.structure if base.is_listed and num_facts(base.structure) > num_facts(known.structure) else None
            bases[base.checkpoint_id] = replace(
                known,
                structure=fuller if fuller and not known.is_stored else known.structure,
                names=known.names | base.names,
                models=known.models | base.models,
                is_base=known.is_base or base.is_base,
                is_stored=known.is_stored or base.is_stored,
                is_described=known.is_described or base.is_described,
            )
        if bases[base.checkpoint_id] != known:
            self._found.clear()

    def by_id(self, checkpoint_id: str, params: int) -> KnownBase | None:
        """The description of a checkpoint."""
        return next((base for base in self.all_of(params) if base.checkpoint_id == checkpoint_id), None)

    def all_of(self, params: int) -> list[KnownBase]:
        """All descriptions with so many parameters, with their layers."""
        bases = self._by_params.get(params, {})
        unlisted = [checkpoint_id for checkpoint_id, base in bases.items() if not base.is_listed]
        layers = self.load_layers(unlisted) if unlisted else {}
        for checkpoint_id in unlisted:
            structure = replace(bases[checkpoint_id].structure, layers=tuple(layers.get(checkpoint_id, ())))
            bases[checkpoint_id] = replace(bases[checkpoint_id], structure=structure, is_listed=True)
        return [*bases.values()]

    def described(self) -> Iterator[KnownBase]:
        """All bases that files describe, with their layers."""
        for params in [*self._by_params]:
            if self.has_described(params):
                yield from (base for base in self.all_of(params) if base.is_described)

    def has_described(self, params: int) -> bool:
        """Whether files describe a base of so many parameters."""
        return any(base.is_described for base in self._by_params.get(params, {}).values())

    def find(self, structure: Structure) -> KnownBase | None:
        """The description that stands for a base; None if none is known.

        Of several bases that the structure does not tell apart, those of its name; if these differ too, only itself.
        """
        key = structure.structure_id, structure.name
        if key not in self._found:
            self._found[key] = self._find(structure)
        return self._found[key]

    def _find(self, structure: Structure) -> KnownBase | None:
        group = [base for base in self.all_of(structure.params) if are_same(base.structure, structure)]
        if not are_all_same(base.structure for base in group):
            named = [base for base in group if structure.name in base.names]
            is_told = bool(named) and are_all_same(base.structure for base in named)
            group = named if is_told else [base for base in group if base.checkpoint_id == structure.structure_id]
        if not group:
            return None
        names = frozenset(name for base in group if base.is_described for name in base.names)
        own = _own_model(group, names | {structure.name})
        chosen = own or _fullest(base for base in group if base.is_described)
        return None if chosen is None else replace(chosen, names=names | chosen.names)


def name_end(name: str) -> str:
    """The last component of a name or path, by which a base and its folder are compared."""
    return name.rstrip("/").rpartition("/")[2]


def _own_model(group: Sequence[KnownBase], names: Collection[str | None]) -> KnownBase | None:
    """The one description that is of a model of its own, if one of the models is clearly the base: by a name of the base; else
    as other models have it as their base; else by its layers, if the base has no name of its own.

    Layers alone do not tell: a tuned model has all layers of its base, and so has one with values set to zero. A model whose
    name declares how it was pruned is no base.
    """
    ends = {name_end(name) for name in names if name}
    is_generic = all(end.lower() in GENERIC_NAMES for end in ends)
    owned = [base for base in group if base.models]
    for is_base in (
        lambda base: any(name_end(model) in ends for model in base.models),
        lambda base: base.is_base,
        lambda base: is_generic and all(_declares_nothing(model) for model in base.models),
    ):
        chosen = [base for base in owned if is_base(base)]
        if len(chosen) == 1:
            return chosen[0]
    return None


def _declares_nothing(model_id: str) -> bool:
    declared = declare(model_id)
    return declared.method is None and declared.ratio is None and declared.removed_layers is None


def _fullest(group: Iterable[KnownBase]) -> KnownBase | None:
    """The description that states most; of equal ones a stored one, then the first by id."""
    return min(
        group,
        key=lambda base: (
            base.status != CheckpointStatus.OK,
            -num_facts(base.structure),
            not base.is_stored,
            base.checkpoint_id,
        ),
        default=None,
    )
