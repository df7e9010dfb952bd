"""Parameter counts of a checkpoint from its placed tensors: those of the model, and those that are stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from layerhouse.ingest.checkpoint.config_json import Config
from layerhouse.ingest.checkpoint.notes import Note, note
from layerhouse.ingest.model.config import declared_flag, declares_head
from layerhouse.ingest.model.family import Family
from layerhouse.ingest.model.placement import Placed, Placement, unique_tensors
from layerhouse.ingest.model.places import canonical_name
from layerhouse.vocabulary import Module, Role

Hashes = Mapping[str, str]
"""Content hashes by tensor name."""


@dataclass(frozen=True)
class Tie:
    """Whether the output head is the input embedding; None if nothing tells.

    `evidence` is config, shared storage, equal bytes, or None. `copy` is a stored head that repeats the embedding, `virtual`
    a head that the file leaves out.
    """

    tied: bool | None
    evidence: str | None = None
    copy: Placed | None = None
    virtual: Placed | None = None
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True)
class Totals:
    """Counts of a checkpoint, named as the columns of `checkpoints`; None if the tensors' roles are unknown.

    `layer_params` are those of the main stack, which is the text model if there are several towers. `params` counts a tied
    tensor once, `params_stored` every stored copy of it. `embedding_params` is the token embedding alone. `lm_head_params` is
    the size of the head as a module: of a tied head it is the embedding's size, as in the study's analyses, and is then not
    part of `params`. `has_copied_head`: a stored head repeats the embedding and is no part of `params`. `stored_bytes` counts a
    storage once, however many views it has. Counts that depend on a weight whose shape is not known are None.
    """

    params: int | None
    params_stored: int | None
    embedding_params: int | None
    lm_head_params: int | None
    layer_params: int | None
    prunable_params: int | None
    tied_embeddings: bool | None
    tie_evidence: str | None
    logical_bytes: int
    stored_bytes: int
    virtual: Placed | None
    has_copied_head: bool
    notes: tuple[Note, ...]


def count_parameters(placement: Placement, config: Config | None, hashes: Hashes | None = None) -> Totals:
    """Totals of a checkpoint. `hashes` are content hashes by tensor name, if the bytes were read."""
    tie = find_tie(placement, config, hashes)
    stored = placement.unique
    copies = 0 if tie.copy is None else tie.copy.params
    head = placement.placed if tie.virtual is None else (*placement.placed, tie.virtual)
    is_known = placement.template_family is not None
    main_stack, params_stored = placement.main_stack, _sum(stored)
    embeddings, heads = _of_role(placement.placed, Role.EMBED_TOKENS), _of_role(head, Role.LM_HEAD)
    is_complete = placement.is_complete
    return Totals(
        params=params_stored - copies if is_complete else None,
        params_stored=params_stored if is_complete else None,
        embedding_params=_sum(unique_tensors(embeddings)) if is_known and _is_told(embeddings, placement) else None,
        lm_head_params=_sum(unique_tensors(heads)) if is_known and _is_told(heads, placement) else None,
        layer_params=(
            _sum([t for t in stored if t.layer_index is not None and t.stack == main_stack]) if is_complete else None
        ),
        prunable_params=_sum([t for t in stored if t.is_prunable]) if is_known and is_complete else None,
        tied_embeddings=tie.tied,
        tie_evidence=tie.evidence,
        logical_bytes=sum([tensor.ref.logical_bytes for tensor in stored]),
        stored_bytes=sum({(t.ref.path, t.ref.offset): t.ref.storage_bytes for t in placement.placed}.values()),
        virtual=tie.virtual,
        has_copied_head=copies > 0,
        notes=tie.notes,
    )


def find_tie(placement: Placement, config: Config | None, hashes: Hashes | None = None) -> Tie:
    """Whether the head is the embedding, by the bytes, else by the config, else by the family's default."""
    family = placement.template_family
    embedding = find_weight(placement, Role.EMBED_TOKENS)
    is_told = all(_is_told(_of_role(placement.placed, role), placement) for role in (Role.EMBED_TOKENS, Role.LM_HEAD))
    if family is None or embedding is None or family.head is None or not is_told:
        return Tie(None)
    head = find_weight(placement, Role.LM_HEAD)
    declared = declared_flag(config, "tie_word_embeddings")
    has_default = declared is None and (config is not None or family.tied_by_default)
    assumed = family.tied_by_default if has_default else declared
    if head is not None:
        return _compare_head(head, embedding, declared, assumed, hashes or {})
    if not declares_head(config) or not _may_have_head(placement, family):
        return Tie(None)
    if assumed:
        evidence = None if config is None else "config"
        notes = () if evidence else (note("tie", f"no head is stored, and no config: {family.name} ties it by default"),)
        return Tie(True, evidence, virtual=_virtual_head(placement, embedding), notes=notes)
    if assumed is None:
        return Tie(None, notes=(note("tie", "no head is stored, and there is no config to say that it is tied"),))
    reason = "declared untied" if declared is False else f"untied by {family.name}'s default"
    return Tie(False, notes=(note("tie", f"{reason}, head missing"),))


def _may_have_head(placement: Placement, family: Family) -> bool:
    """Whether a model without a stored head may have one that is tied: not one of BERT without what lies before its head, and
    not an encoder of a family whose head is the decoder's.
    """
    head = next(template for template in family.templates if template.name == family.head)
    before = {template.name for template in family.templates if template.module == Module.LM_HEAD and not template.optional}
    before -= {template.name for template in family.templates if template.role == Role.LM_HEAD and not template.bare}
    has_part = any(tensor.template is not None and tensor.template.name in before for tensor in placement.placed)
    stacks = {tensor.stack for tensor in placement.placed if tensor.layer_index is not None and tensor.template is not None}
    return (has_part or not before) and (head.stack in stacks or not stacks)


def find_weight(placement: Placement, role: Role) -> Placed | None:
    """The first weight of a role; None if there is none."""
    return next((tensor for tensor in placement.placed if tensor.role == role and tensor.part == "weight"), None)


def _compare_head(head: Placed, embedding: Placed, declared: bool | None, assumed: bool | None, hashes: Hashes) -> Tie:
    """The tie of a stored head. Equal bytes count as tied even if the config declares otherwise; without bytes it decides."""
    if head.ref.place == embedding.ref.place:
        notes = (note("tie", "declared untied, head and embedding share a storage"),) if declared is False else ()
        return Tie(True, "shared storage", notes=notes)
    head_hash, embedding_hash = (hashes.get(tensor.ref.name) for tensor in (head, embedding))
    has_same_form = (head.ref.shape, head.ref.dtype) == (embedding.ref.shape, embedding.ref.dtype)
    if has_same_form and head_hash is not None and head_hash == embedding_hash:
        notes = (note("tie", "declared untied, head and embedding are equal"),) if declared is False else ()
        return Tie(True, "equal bytes", copy=head, notes=notes)
    if head.ref.shape != embedding.ref.shape or (head_hash is not None and embedding_hash is not None):
        return Tie(False, notes=(note("tie", "declared tied, head and embedding differ"),) if declared else ())
    return Tie(True, "config", copy=head) if assumed else Tie(assumed)


def _virtual_head(placement: Placement, embedding: Placed) -> Placed:
    """The head that a tied model has and its file lacks: the embedding's bytes under the head's name, adding no bytes."""
    family = placement.template_family
    assert family is not None
    template = next(template for template in family.templates if template.name == family.head)
    return replace(
        embedding,
        ref=replace(embedding.ref, name=f"{family.head}.weight", storage_bytes=0),
        canonical_name=canonical_name(template, "weight"),
        module=str(template.module),
        role=template.role,
        input_axis=1,
        residual_axis=1 if template.residual else None,
        template=template,
        is_virtual=True,
    )


def _is_told(tensors: Sequence[Placed], placement: Placement) -> bool:
    """Whether the tensors of a role are all known: none is unread, and if there are none, nothing that is unread can be one."""
    if tensors:
        return not any(tensor.is_unread for tensor in tensors)
    unread = [tensor for tensor in placement.placed if tensor.is_unread and tensor.layer_index is None]
    return not placement.has_lost and not unread


def _of_role(placed: Iterable[Placed], role: Role) -> list[Placed]:
    return [tensor for tensor in placed if tensor.role == role]


def _sum(placed: Iterable[Placed]) -> int:
    return sum([tensor.params for tensor in placed])
