"""Without its config or a companion, or with another one, a packed model has its own counts or none, never others."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from layerhouse.errors import InputError
from layerhouse.tests.test_layouts import CONFIG, LINEAR, PACKINGS, Entry, rows_of, write
from layerhouse.tests.test_packed_shapes import (
    FORMS_OF_BYTES,
    PACKED,
    Packing,
    dense,
    entries_of,
)

__all__ = ["dense"]

FORMS: dict[str, tuple[Packing, dict[str, Any]]] = {**PACKINGS, **PACKED, **FORMS_OF_BYTES}
WORDS_OF = {
    **dict.fromkeys(("gptq", "awq", "awq gemv", "awq gemv_fast", "fp-quant"), "qweight"),
    **dict.fromkeys(("pack-quantized", "nvfp4 packed"), "weight_packed"),
    **dict.fromkeys(("quanto", "quanto in groups"), "weight._data._data"),
    **dict.fromkeys(("torchao", "torchao float8"), "_weight_qdata"),
    "quanto int8": "weight._data",
    "marlin": "B",
    "exl2": "q_weight",
    "exl3": "trellis",
    "aqlm": "codes",
    "quip#": "Qidxs",
    "vptq": "indices",
}
"""The suffix of the words themselves, where it is not weight."""
NUMBERS = (0, 1, 2, 3, 7, 16, 64, 1 << 20, -4)
Change = tuple[str, dict[str, Entry], dict[str, Any], Mapping[str, Any] | None]
"""What was changed, the tensors, the config and quanto's map."""


def changed_config(value: Any, chance: random.Random) -> Any:
    """A config with one of its numbers or texts replaced, or one of its keys gone."""
    if isinstance(value, dict) and value:
        key = chance.choice([*value])
        if chance.random() < 0.3:
            return {name: item for name, item in value.items() if name != key}
        return {**value, key: changed_config(value[key], chance)}
    if isinstance(value, str):
        return chance.choice(["zipnn9", "", "gptq", "awq", "int4"])
    return chance.choice(NUMBERS)


def other_shape(shape: tuple[int, ...], chance: random.Random) -> tuple[int, ...]:
    axis = chance.randrange(len(shape)) if shape else 0
    lengths = [*shape] or [1]
    lengths[axis] = chance.choice([max(0, lengths[axis] - 1), lengths[axis] + 1, lengths[axis] * 2, lengths[axis] // 2])
    return tuple(lengths)


def changes_of(name: str) -> Iterator[Change]:
    """A packed model without its config, with others, and without, beside and with another form of each companion."""
    pack, declared = FORMS[name]
    chance = random.Random(name)
    entries, config = entries_of(pack), {**CONFIG, **declared}
    qmap = {linear.removesuffix(".weight"): {"weights": "qint4"} for linear in LINEAR} if name.startswith("quanto") else None
    yield "as it is", entries, config, qmap
    yield "no quantisation in the config", entries, CONFIG, None
    yield "another method", entries, {**CONFIG, "quantization_config": {"quant_method": "zipnn9"}}, qmap
    for _ in range(4 if declared else 0):
        yield "config changed", entries, {**CONFIG, **changed_config(declared, chance)}, qmap
    suffixes = sorted({tensor.partition("q_proj.")[2] for tensor in entries if ".0.self_attn.q_proj." in tensor})
    words = WORDS_OF.get(name, "weight")
    for suffix in suffixes:
        for is_everywhere in (True, False):
            mine = [key for key in entries if key.endswith(f"_proj.{suffix}")]
            mine = mine if is_everywhere else chance.sample(mine, 2)
            where = "everywhere" if is_everywhere else "in two modules"
            rest = {key: entry for key, entry in entries.items() if key not in mine}
            yield f"{suffix} gone {where}", rest, config, qmap
            renamed = {f"{key}_x": entries[key] for key in mine}
            yield f"{suffix} renamed {where}", rest | renamed, config, qmap
            if suffix == words:  # which are not companions
                continue
            reshaped = {key: (entries[key][0], other_shape(entries[key][1], chance), None) for key in mine}
            yield f"{suffix} of another shape {where}", rest | reshaped, config, qmap
            retyped = {key: ("F16", entries[key][1], None) for key in mine}
            yield f"{suffix} of another type {where}", rest | retyped, config, qmap


@pytest.mark.parametrize("name", FORMS)
def test_counts_are_right_or_not_known(tmp_path: Path, dense, name):
    counts = {"right": 0, "not known": 0, "refused": 0}
    for number, (what, entries, config, qmap) in enumerate(changes_of(name)):
        folder = write(tmp_path / str(number), entries, config)
        if qmap is not None:
            (folder / "quanto_qmap.json").write_text(json.dumps(qmap))
        try:
            checkpoint, _, layers = rows_of(folder)
        except InputError as error:
            assert "\n" not in str(error)
            counts["refused"] += 1
            continue
        params = checkpoint["params"]
        assert params in (dense[0]["params"], None), (what, params)
        for row, whole in zip(layers, dense[2], strict=True):
            for word in ("params", "num_heads", "num_kv_heads", "intermediate_size", "hidden_size"):
                assert row[word] in (whole[word], None), (what, word, row[word], whole[word])
        counts["not known" if params is None else "right"] += 1
    assert counts["right"] > 0
    assert counts["not known"] > counts["refused"]
