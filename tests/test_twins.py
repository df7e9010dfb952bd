"""Two files with equal tensors that store them in other ways: each has its own rows, and the values are still equal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import layerhouse as lh

UP = "model.layers.0.mlp.up_proj.weight"


def save(folder: Path, value: Any) -> None:
    folder.mkdir(parents=True)
    torch.save(value, folder / "pytorch_model.bin")


def view_and_clone() -> tuple[Any, Any]:
    large = torch.randn(32, 8)
    return {UP: large[:8].clone()}, {UP: large[:8]}


def state_and_module() -> tuple[Any, Any]:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4, bias=False))
    model.register_buffer("table", torch.ones(3))
    return model.state_dict(), model


def shared_and_cloned() -> tuple[Any, Any]:
    weight = torch.randn(8, 8)
    names = (UP, UP.replace("layers.0", "layers.1"))
    return {name: weight.clone() for name in names}, dict.fromkeys(names, weight)


OWN_ROWS = """
SELECT model_id, name, tensors.stored_bytes, tensors.stored_bytes - tensors.logical_bytes, is_parameter, tensors.params,
    content_hash
FROM tensors JOIN current_checkpoints USING (checkpoint_id)
ORDER BY model_id, name
"""
"""Of each tensor: bytes, those of them that no value is in, whether it is a parameter, and the parameters that it counts."""
TWINS = {
    "a view of a larger storage": (view_and_clone, [(UP, 256, 0, True, 64)], [(UP, 1024, 768, True, 64)]),
    "a state dict and a module": (
        state_and_module,
        [("0.weight", 64, 0, True, 16), ("table", 12, 0, True, 3)],
        [("0.weight", 64, 0, True, 16), ("table", 12, 0, False, 0)],
    ),
    "a storage of two layers": (
        shared_and_cloned,
        [(UP, 256, 0, True, 64), (UP.replace("layers.0", "layers.1"), 256, 0, True, 64)],
        [(UP, 256, 0, True, 64), (UP.replace("layers.0", "layers.1"), 256, 0, True, 0)],
    ),
}


@pytest.mark.parametrize("is_reversed", [False, True])
@pytest.mark.parametrize("name", TWINS)
def test_each_twin_shows_its_own_bytes_and_parameters(tmp_path, name, is_reversed):
    make, *expected = TWINS[name]
    folders = [tmp_path / "zoo/a", tmp_path / "zoo/b"]
    for folder, value in zip(folders, make(), strict=True):
        save(folder, value)
    for folder in reversed(folders) if is_reversed else folders:
        lh.ingest([folder], warehouse=tmp_path / "w")
    with lh.open(tmp_path / "w") as wh:
        rows = wh.sql(OWN_ROWS).rows()
        totals = dict(wh.sql("SELECT model_id, params FROM current_checkpoints").rows())
    for model, own in zip(("zoo/a", "zoo/b"), expected, strict=True):
        assert [row[1:-1] for row in rows if row[0] == model] == own
        assert totals[model] == sum(row[4] for row in own)
    assert len({row[-1] for row in rows}) == (1 if name == "a storage of two layers" else len(expected[0]))


def test_a_twin_is_identical_to_its_base(tmp_path):
    for name, value in zip("ab", view_and_clone(), strict=True):
        save(tmp_path / "zoo" / name, value)
    lh.ingest([tmp_path / "zoo"], warehouse=tmp_path / "w", base=tmp_path / "zoo/a")
    with lh.open(tmp_path / "w") as wh:
        assert wh.sql("SELECT DISTINCT relation FROM tensor_matches").rows() == [("identical",)]
