"""What an ingest has to do: the models in their order, the base, and what is new of each model."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from layerhouse.errors import NotFoundError, UsageError
from layerhouse.file_door import identity_of
from layerhouse.ingest.context import IngestContext
from layerhouse.ingest.declarations.declare import declare
from layerhouse.ingest.declarations.method_patterns import compile_method_pattern, declare_by_patterns
from layerhouse.ingest.discover import Remark, discover
from layerhouse.ingest.model_files import FoundModel, fingerprint_of, total_size
from layerhouse.ingest.result_files import ResultFiles
from layerhouse.ingest.take_analysis import AnalysisTaker
from layerhouse.ingest.take_results import name_declarations
from layerhouse.ingest.take_weights import WeightsTaker
from layerhouse.vocabulary import EventKind, SourceKind

Row = dict[str, Any]

SLICED_METHOD = "SliceGPT"


@dataclass(frozen=True)
class ChosenModels:
    """The models to ingest, a base that is one of them first.

    The base has a name or is a config, or there is none. `is_base_among_models` is false if it was only named as the base.
    """

    models: tuple[FoundModel, ...]
    base_name: str | None = None
    base_config: Path | None = None
    is_base_among_models: bool = True


@dataclass(frozen=True)
class ModelPlan:
    """One model to take, and whether its analysis and weight files have anything new."""

    model: FoundModel
    has_new_analysis: bool
    has_new_weights: bool
    weight_bytes: int
    declared: Row

    @property
    def is_unchanged(self) -> bool:
        """Whether neither analysis nor weight files are new."""
        return not (self.has_new_analysis or self.has_new_weights)


def choose_models(roots: Sequence[Path], context: IngestContext, result_files: ResultFiles) -> ChosenModels:
    """Find the models below the roots, and the base. Raises UsageError and NotFoundError."""
    options = context.options
    discovery = discover(roots, excludes=options.excludes, name=options.name, result_files=result_files, guard=context.guard)
    _report_remarks(discovery.remarks, context)
    models = _settle_names(discovery.models, context, options.name)
    if options.base is None or options.base_mode is not None:
        return ChosenModels(models)
    base = Path(options.base)
    if identity_of(base) is not None:
        if base.suffix.lower() == ".json" and base.is_file():
            return ChosenModels(models, base_config=base)
        return _put_base_first(models, base, context, result_files)
    named = next((model for model in models if model.model_id == options.base and has_structure(model)), None)
    if named is not None:
        return ChosenModels((named, *[model for model in models if model is not named]), named.model_id)
    return ChosenModels(models, base_name=_name_in_warehouse(options.base, models, context))


def _report_remarks(remarks: Sequence[Remark], context: IngestContext) -> None:
    for remark in remarks:
        context.report_event(EventKind.FAILED if remark.is_failure else EventKind.PASSED, remark.where, remark.what)


def _name_in_warehouse(base: str, models: Sequence[FoundModel], context: IngestContext) -> str:
    """The base, if it is the name of a model with weights or an analysis in the warehouse. Raises NotFoundError, with those of
    this ingest."""
    names = {model_id for model_id, _ in context.known.sightings}
    if base not in names:
        names |= {model.model_id for model in models if has_structure(model)}
        raise NotFoundError("base, neither a path nor a model with weights or an analysis,", base, tuple(sorted(names)))
    return base


def has_structure(model: FoundModel) -> bool:
    """Whether a model has files that say what its layers are."""
    return bool(model.weight_files or model.analysis_files)


def _put_base_first(
    models: tuple[FoundModel, ...], base: Path, context: IngestContext, result_files: ResultFiles
) -> ChosenModels:
    """The models with the base at their head. Raises UsageError if the base's path does not hold one model with weights."""
    discovery = discover([base], result_files=result_files, guard=context.guard)
    with_weights = [model for model in discovery.models if model.weight_files]
    if len(with_weights) != 1:
        _report_remarks(discovery.remarks, context)
        raise UsageError(f"--base {base}: the base is one model with weights; found {len(with_weights)}")
    base_model = next((model for model in models if model.folder == with_weights[0].folder), None)
    if base_model is not None:
        others = [model for model in models if model is not base_model]
        return ChosenModels((base_model, *others), base_model.model_id)
    settled = _settle_names(with_weights, context, None)
    if not settled:
        return ChosenModels(models)
    return ChosenModels((*settled, *models), settled[0].model_id, is_base_among_models=False)


def _settle_names(models: Sequence[FoundModel], context: IngestContext, new_name: str | None) -> tuple[FoundModel, ...]:
    """The models with the names that their folders have in the warehouse.

    A name that another folder has is a failure, unless it was given: then the folder holds the next content of that model.
    """
    settled = []
    for model in models:
        folder = model.source_uri
        name = context.known.models_by_folder.get(folder, model.model_id)
        other = context.known.folders_by_model.get(name)
        if new_name is not None and name != new_name:
            what = f"in the warehouse as {name}; rename it with: layerhouse rename {name} {new_name}"
            context.report_event(EventKind.FAILED, folder, what)
        elif new_name is None and other is not None and other != folder and os.path.lexists(other):
            what = (
                f"its name {name} is that of {other} in the warehouse; give it another with --name NAME, "
                f"or continue that model with --name {shlex.quote(name)}"
            )
            context.report_event(EventKind.FAILED, folder, what)
        else:
            settled.append(replace(model, model_id=name))
    return tuple(settled)


def plan_models(
    models: Sequence[FoundModel], context: IngestContext, weights: WeightsTaker, analyses: AnalysisTaker
) -> list[ModelPlan]:
    """What is new of each model. The bases that analysis files describe are gathered on the way."""
    patterns = [compile_method_pattern(text) for text in context.options.method_patterns]
    plans: list[ModelPlan] = []
    for model in models:
        with context.taking(model.shown, model.home):
            plan = _plan_model(model, context, weights, patterns)
            if plan.has_new_analysis:
                analyses.gather_base(model)
            plans.append(plan)
    context.progress.expect(models=len(plans), num_bytes=sum(plan.weight_bytes for plan in plans))
    return plans


def _plan_model(
    model: FoundModel, context: IngestContext, weights: WeightsTaker, patterns: Sequence[re.Pattern[str]]
) -> ModelPlan:
    is_new = bool(model.weight_files) and weights.is_new(model)
    weight_bytes = total_size(model.weight_files) if is_new else 0
    return ModelPlan(model, _is_analysis_new(model, context), is_new, weight_bytes, _declared(model, patterns))


def _is_analysis_new(model: FoundModel, context: IngestContext) -> bool:
    if not model.analysis_files:
        return False
    sighting = context.known.sightings.get((model.model_id, SourceKind.ANALYSIS))
    return sighting is None or sighting.fingerprint != fingerprint_of(model.analysis_files)


def _declared(model: FoundModel, patterns: Sequence[re.Pattern[str]]) -> Row:
    """The columns for what the names of a model and of its sliced files declare."""
    declaration = declare_by_patterns(patterns, model.model_id) or declare(model.model_id)
    if model.sliced_name is not None:
        ratio = declare(model.sliced_name).ratio if declaration.ratio is None else declaration.ratio
        declaration = replace(declaration, method=declaration.method or SLICED_METHOD, ratio=ratio)
    if model.revision:
        declaration = replace(declaration, tags={**declaration.tags, "revision": model.revision})
    return name_declarations(declaration)
