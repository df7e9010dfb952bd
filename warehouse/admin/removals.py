"""Drops and renames models with tombstone rows. No other row changes, so `--as-of` an earlier time still shows the model."""

from __future__ import annotations

from pathlib import Path

from layerhouse.errors import UsageError
from layerhouse.vocabulary import RemovalAction
from layerhouse.warehouse.admin.keeping import keep_answers
from layerhouse.warehouse.answers.query import MODEL_NAMES, model_names, the_model
from layerhouse.warehouse.answers.session import connect
from layerhouse.warehouse.storage.store import write_commit


def drop_model(root: Path, model: str) -> str:
    """Hide a model and its results; returns its name.

    `model` is its name, or the ending of its name alone. Raises NotFoundError for an unknown model, and UsageError for an
    ending of several names.
    """
    model_id = the_model(_names(root), model)
    write_commit(root, {"removals": [{"action": RemovalAction.DROP, "model_id": model_id}]}, RemovalAction.DROP)
    keep_answers(root)
    return model_id


def rename_model(root: Path, model: str, new_model_id: str) -> str:
    """Rename a model; later ingests of its folder keep the new name. Returns the name that it had; see drop_model."""
    names = _names(root)
    model_id = the_model(names, model)
    if not new_model_id.strip():
        raise UsageError("the new name is empty")
    if new_model_id in names:
        raise UsageError(f"there is a model {new_model_id!r} already; drop or rename that one first")
    row = {"action": RemovalAction.RENAME, "model_id": model_id, "new_model_id": new_model_id}
    write_commit(root, {"removals": [row]}, RemovalAction.RENAME)
    keep_answers(root)
    return model_id


def _names(root: Path) -> tuple[str, ...]:
    """The names of all models."""
    connection, _ = connect(root, asked=MODEL_NAMES)
    with connection:
        return model_names(connection)
