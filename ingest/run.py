"""The order of an ingest: find models, plan what is new, take each model, compare it with the base, commit in batches.

A commit is made after 2 s or 256 items, at the end, and on an interrupt: what was finished stays. The base is taken first, so
that every other model is compared with it as soon as it is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from layerhouse.ingest.compare_with_base import Comparer
from layerhouse.ingest.config_base import take_config_base
from layerhouse.ingest.context import IngestContext, Options
from layerhouse.ingest.events import CallbackError, Event, Progress, ProgressCounter, Report, ReportEvent, call, count_text
from layerhouse.ingest.model_files import FoundModel
from layerhouse.ingest.plan import ChosenModels, ModelPlan, choose_models, plan_models
from layerhouse.ingest.read_ahead import ReadAhead
from layerhouse.ingest.result_files import ResultFiles
from layerhouse.ingest.results.model_lookup import Models
from layerhouse.ingest.results.secret_texts import without_secrets
from layerhouse.ingest.take_analysis import AnalysisTaker
from layerhouse.ingest.take_results import ResultTaker
from layerhouse.ingest.take_weights import ReadWeights, WeightsTaker
from layerhouse.vocabulary import BaseMode, EventKind, SourceKind
from layerhouse.warehouse.storage.inventory import Inventory

__all__ = ["Event", "Options", "Progress", "Report", "ingest_roots", "settle_stored"]


def ingest_roots(
    roots: Sequence[Path],
    store_root: Path,
    known: Inventory,
    options: Options,
    *,
    on_event: Callable[[Event], None] = lambda event: None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Report:
    """Ingest everything below the roots into the warehouse at `store_root`, which a dry run does not touch.

    An input that cannot be taken is an event of kind `failed`, and the ingest goes on. Raises UsageError for options that
    cannot hold and WarehouseError where rows cannot be written. On KeyboardInterrupt what is finished is committed first.
    """
    report = Report()
    progress = ProgressCounter(lambda progress: call(on_progress, progress))
    context = IngestContext(store_root, known, options, _reporter(report, on_event), progress)
    result_files = ResultFiles(known)
    try:
        chosen = choose_models(roots, context, result_files)
        try:
            _Ingest(context, chosen, result_files).run()
        finally:
            context.batch.flush()
    except CallbackError as failed:
        raise failed.error from None
    return report


def settle_stored(store_root: Path, known: Inventory, options: Options, on_event: Callable[[Event], None]) -> Report:
    """Find the descent of every model of the warehouse anew, and compare those that have no base. Raises WarehouseError."""
    from layerhouse.ingest.bases.find import BaseFinder

    report = Report()
    context = IngestContext(store_root, known, options, _reporter(report, on_event), ProgressCounter())
    try:
        try:
            BaseFinder(context, BaseMode.AUTO, is_whole=True).run(())
        finally:
            context.batch.flush()
    except CallbackError as failed:
        raise failed.error from None
    return report


def _reporter(report: Report, on_event: Callable[[Event], None]) -> ReportEvent:
    """A callback that adds an event to a report and passes it on."""

    def report_event(kind: EventKind, where: str, what: str) -> None:
        event = Event(kind, where, without_secrets(what))
        report.events.append(event)
        call(on_event, event)

    return report_event


class _Ingest:
    """Takes the chosen models one after the other."""

    def __init__(self, context: IngestContext, chosen: ChosenModels, result_files: ResultFiles) -> None:
        self._context, self._chosen, self._dry_run = context, chosen, context.options.dry_run
        self._analyses, self._weights = AnalysisTaker(context), WeightsTaker(context)
        self._results = ResultTaker(context, result_files, _linkable_models(chosen.models, context.known))
        self._comparer = Comparer(context)
        self._analyses.named_base = chosen.base_name
        self._plans = plan_models(chosen.models, context, self._weights, self._analyses)

    def run(self) -> None:
        """Take and compare all models. If one breaks off, nothing of it is left in the batch."""
        batch, chosen = self._context.batch, self._chosen
        base_name = None if self._dry_run else chosen.base_name
        if chosen.base_config is not None and not self._dry_run:
            self._comparer.base = take_config_base(chosen.base_config, self._context)
        if not any(plan.model.weight_files for plan in self._plans):
            base_name = None  # analyses find it by themselves
        if base_name is not None and base_name not in {plan.model.model_id for plan in self._plans}:
            self._comparer.set_base(base_name, is_among_models=False)
        batch.seal()
        try:
            with self._reader() as reader:
                for plan in self._plans:
                    weights = self._take(plan, reader)
                    if plan.model.model_id == base_name:
                        self._comparer.set_base(base_name, weights, is_among_models=chosen.is_base_among_models)
                    elif weights is not None:
                        self._comparer.compare(plan.model.model_id, weights)
                    batch.seal()
                    batch.flush_if_due()
                self._results.take_stored()
                batch.seal()
        except BaseException:
            batch.drop_unfinished()
            raise
        model_ids = [plan.model.model_id for plan in self._plans]
        self._comparer.compare_stored(model_ids)
        if not self._dry_run:
            self._settle_analyses()
            self._choose_bases(model_ids)

    def _settle_analyses(self) -> None:
        """Compare analyses, also those that are not new, with the base that was named, or that turned out to be theirs."""
        bases, names = self._analyses.bases, [plan.model.model_id for plan in self._plans if plan.model.analysis_files]
        if self._chosen.base_name is not None and names:
            bases.compare_with(self._chosen.base_name, names)
        if any(plan.has_new_analysis or plan.has_new_weights for plan in self._plans):
            bases.settle()

    def _choose_bases(self, model_ids: Sequence[str]) -> None:
        """Find the bases of models where none was named; else remember that one was, or that there is to be none."""
        from layerhouse.ingest.bases.choices import remember_choices

        mode = self._context.options.base_mode
        if mode in (BaseMode.AUTO, BaseMode.PARENT):
            from layerhouse.ingest.bases.find import BaseFinder

            BaseFinder(self._context, mode).run(model_ids)
        elif mode == BaseMode.NONE or self._comparer.base is not None:
            base = self._comparer.base
            remember_choices(self._context, model_ids, None if base is None else base.checkpoint_id)

    def _reader(self) -> ReadAhead[ModelPlan, ReadWeights]:
        """What reads the weights of models, later ones ahead of their turn."""
        reading = self._context.reading
        plans = [] if self._dry_run else [plan for plan in self._plans if plan.has_new_weights]
        return ReadAhead(
            [(plan, plan.weight_bytes) for plan in plans],
            self._read_weights,
            workers=reading.workers or len(reading.devices),
            threads=reading.threads,
            devices=reading.devices,
        )

    def _read_weights(self, plan: ModelPlan, device: str, threads: int) -> ReadWeights:
        return self._weights.read(plan.model, device=device, threads=threads)

    def _take(self, plan: ModelPlan, reader: ReadAhead[ModelPlan, ReadWeights]) -> ReadWeights | None:
        """Take one model; report all that was taken of it in one event, and each thing that could not be in one of its own.

        Returns its weights if they are to be compared; None if nothing but their units is new.
        """
        model, context = plan.model, self._context
        taken: list[str] = []
        if plan.has_new_analysis and (count := self._take_analysis(plan)):
            taken.append(count_text(count, "analysis file"))
        weights = None
        if plan.has_new_weights:
            text, weights = self._take_weights(plan, reader)
            taken += [text] if text else []
        outcomes = self._results.take(model, plan.declared)
        if outcomes.count(True):
            taken.append(count_text(outcomes.count(True), "result file"))
        context.batch.seal()
        if taken:
            kind = EventKind.PLANNED if self._dry_run else EventKind.TAKEN
            context.report_event(kind, model.model_id, ", ".join(taken))
        elif plan.is_unchanged and (model.analysis_files or model.weight_files or None in outcomes):
            context.report_event(EventKind.UNCHANGED, model.model_id, "nothing new")
        context.progress.count_model()
        return None if weights is None or weights.checkpoint is None else weights

    def _take_analysis(self, plan: ModelPlan) -> int:
        """How many analysis files of a model were taken."""
        with self._context.taking(plan.model.shown, plan.model.home):
            return self._analyses.take(plan.model, plan.declared)
        return 0

    def _take_weights(self, plan: ModelPlan, reader: ReadAhead[ModelPlan, ReadWeights]) -> tuple[str, ReadWeights | None]:
        """What a report says was taken of a model's weights, empty where nothing was, and what was read."""
        model, context = plan.model, self._context
        text, taken = "", None
        with context.taking(model.shown, model.home):
            analysis = context.known.sightings.get((model.model_id, SourceKind.ANALYSIS))
            if self._dry_run:
                text = self._weights.describe(model)
            else:
                weights = reader.take(plan)
                self._weights.add(model, weights, plan.declared, None if analysis is None else analysis.params)
                text, taken = weights.taken_text, weights
        return text, taken


def _linkable_models(models: Sequence[FoundModel], known: Inventory) -> Models:
    """The models that results can be linked to: those of the warehouse and those of this ingest that have a structure."""
    stored = [
        (model_id, folder)
        for model_id, folder in known.folders_by_model.items()
        if any((model_id, kind) in known.sightings for kind in (SourceKind.WEIGHTS, SourceKind.ANALYSIS))
    ]
    own = [(model.model_id, model.source_uri) for model in models if model.weight_files or model.analysis_files]
    return Models([*stored, *own], known.former_names)
