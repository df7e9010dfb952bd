"""Drops and renames models with tombstone rows. No other row changes, so `--as-of` an earlier time still shows the model."""

from __future__ import annotations

from pathlib import Path

from layerhouse.errors import NotFoundError, UsageError
from layerhouse.vocabulary import RemovalAction
from layerhouse.warehouse.answers.query import MODEL_NAMES, model_names
from layerhouse.warehouse.answers.session import connect, keep_answers
from layerhouse.warehouse.storage.store import write_commit


def drop_model(root: Path, model_id: str) -> None:
    """Hide a model and its results. Raises NotFoundError for an unknown model."""
    _existing_names(root, model_id)
    write_commit(root, {"removals": [{"action": RemovalAction.DROP, "model_id": model_id}]}, RemovalAction.DROP)
    keep_answers(root)


def rename_model(root: Path, model_id: str, new_model_id: str) -> None:
    """Rename a model; later ingests of its folder keep the new name. Raises NotFoundError or UsageError."""
    names = _existing_names(root, model_id)
    if not new_model_id.strip():
        raise UsageError("the new name is empty")
    if new_model_id in names:
        raise UsageError(f"there is a model {new_model_id!r} already; drop or rename that one first")
    row = {"action": RemovalAction.RENAME, "model_id": model_id, "new_model_id": new_model_id}
    write_commit(root, {"removals": [row]}, RemovalAction.RENAME)
    keep_answers(root)


def _existing_names(root: Path, model_id: str) -> tuple[str, ...]:
    """The names of all models. Raises NotFoundError if this one is not among them."""
    connection, _ = connect(root, asked=MODEL_NAMES)
    with connection:
        names = model_names(connection)
    if model_id not in names:
        raise NotFoundError("model", model_id, names)
    return names
