"""Totals of a checkpoint from its placed tensors: what it has as a model, and what it stores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from layerhouse.ingest.checkpoint.notes import Note, note
from layerhouse.ingest.model.config import Config, declared_flag, declares_head
from layerhouse.ingest.model.placement import Placed, Placement, canonical_name, unique_tensors

Hashes = Mapping[str, str]


@dataclass(frozen=True)
class Tie:
    """Whether the output head is the input embedding; None where nothing says.

    `evidence` is config, shared storage, equal bytes, or None. `copy` is a stored head that repeats the embedding, `virtual`
    one that the file leaves out.
    """

    tied: bool | None
    evidence: str | None = None
    copy: Placed | None = None
    virtual: Placed | None = None
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True)
class Totals:
    """Counts of a checkpoint, named as the columns of `checkpoints`; None where the tensors' roles are unknown.

    `layer_params` are those of the stack that stands for the model, of several towers the text model's.
    `params` counts a tied tensor once, `params_stored` every stored copy of one. `embedding_params` is the token table alone.
    `lm_head_params` is the size of the head as a module: a tied head shows the embedding's number, as older analyses do,
    and is then no summand of `params`. `stored_bytes` counts a storage once, whatever views it serves.
    """

    params: int
    params_stored: int
    embedding_params: int | None
    lm_head_params: int | None
    layer_params: int
    prunable_params: int | None
    tied_embeddings: bool | None
    tie_evidence: str | None
    logical_bytes: int
    stored_bytes: int
    virtual: Placed | None
    notes: tuple[Note, ...]


def count_parameters(placement: Placement, config: Config | None, hashes: Hashes | None = None) -> Totals:
    """Totals of a checkpoint. `hashes` are content hashes by tensor name, where the bytes were read."""
    tie = find_tie(placement, config, hashes)
    stored = placement.unique
    copies = 0 if tie.copy is None else tie.copy.params
    head = placement.placed if tie.virtual is None else (*placement.placed, tie.virtual)
    is_known = placement.family is not None
    main_stack, params_stored = placement.main_stack, _sum(stored)
    embeddings, heads = [t for t in placement.placed if t.role == "embed_tokens"], [t for t in head if t.role == "lm_head"]
    return Totals(
        params=params_stored - copies,
        params_stored=params_stored,
        embedding_params=_sum(unique_tensors(embeddings)) if is_known else None,
        lm_head_params=_sum(unique_tensors(heads)) if is_known else None,
        layer_params=_sum([t for t in stored if t.layer_index is not None and t.stack == main_stack]),
        prunable_params=_sum([t for t in stored if t.is_prunable]) if is_known else None,
        tied_embeddings=tie.tied,
        tie_evidence=tie.evidence,
        logical_bytes=sum([tensor.ref.logical_bytes for tensor in stored]),
        stored_bytes=sum({(t.ref.path, t.ref.offset): t.ref.storage_bytes for t in placement.placed}.values()),
        virtual=tie.virtual,
        notes=tie.notes,
    )


def find_tie(placement: Placement, config: Config | None, hashes: Hashes | None = None) -> Tie:
    """Whether the head is the embedding, as bytes say, then the config, then the family's default."""
    family = placement.template_family
    embedding = next((t for t in placement.placed if t.role == "embed_tokens" and t.part == "weight"), None)
    if family is None or embedding is None or family.head is None:
        return Tie(None)
    head = next((t for t in placement.placed if t.role == "lm_head" and t.part == "weight"), None)
    stated = declared_flag(config, "tie_word_embeddings")
    assumed = family.tied_by_default if stated is None and (config is not None or family.tied_by_default) else stated
    if head is not None:
        return _compare(head, embedding, stated, assumed, hashes or {})
    if not declares_head(config):
        return Tie(None)
    if assumed:
        evidence = None if config is None else "config"
        notes = () if evidence else (note("tie", f"no head is stored, and no config: {family.name} ties it by default"),)
        return Tie(True, evidence, virtual=_virtual_head(placement, embedding), notes=notes)
    if assumed is None:
        return Tie(None, notes=(note("tie", "no head is stored, and there is no config to say that it is tied"),))
    says = "declared untied" if stated is False else f"untied by {family.name}'s default"
    return Tie(False, notes=(note("tie", f"{says}, head missing"),))


def _compare(head: Placed, embedding: Placed, stated: bool | None, assumed: bool | None, hashes: Hashes) -> Tie:
    """Both are stored. Equal bytes count as tied even if the config says otherwise; without bytes the config decides."""
    if head.ref.place == embedding.ref.place:
        notes = (note("tie", "declared untied, head and embedding share a storage"),) if stated is False else ()
        return Tie(True, "shared storage", notes=notes)
    mine, other = (hashes.get(tensor.ref.name) for tensor in (head, embedding))
    is_alike = (head.ref.shape, head.ref.dtype) == (embedding.ref.shape, embedding.ref.dtype)
    if is_alike and mine is not None and mine == other:
        notes = (note("tie", "declared untied, head and embedding are equal"),) if stated is False else ()
        return Tie(True, "equal bytes", copy=head, notes=notes)
    if head.ref.shape != embedding.ref.shape or (mine is not None and other is not None):
        return Tie(False, notes=(note("tie", "declared tied, head and embedding differ"),) if stated else ())
    return Tie(True, "config", copy=head) if assumed else Tie(assumed)


def _virtual_head(placement: Placement, embedding: Placed) -> Placed:
    """The head that a tied model has and its file has not: the embedding's bytes under the head's name, none of its own."""
    family = placement.template_family
    assert family is not None
    template = next(template for template in family.templates if template.name == family.head)
    return replace(
        embedding,
        ref=replace(embedding.ref, name=f"{family.head}.weight", storage_bytes=0),
        canonical_name=canonical_name(template, "weight"),
        module=template.module,
        role=template.role,
        input_axis=1,
        residual_axis=1 if template.residual else None,
        template=template,
        is_virtual=True,
    )


def _sum(placed: Iterable[Placed]) -> int:
    return sum([tensor.params for tensor in placed])
