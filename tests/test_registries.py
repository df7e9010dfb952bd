"""Containers and layouts that an installed package adds, in the real command; and packages that are broken."""

from __future__ import annotations

import json
import math
import struct
import subprocess
import sys

import pytest

from layerhouse.ingest.checkpoint.containers import registry as containers
from layerhouse.ingest.checkpoint.layouts import registry as layouts
from layerhouse.tests.plugin_packages import install_package
from layerhouse.tests.running import layerhouse
from layerhouse.tests.tiny_models import Width, llama_shapes
from layerhouse.tests.weight_files import safetensors_bytes

SHAPES = llama_shapes({0: Width()})
CONFIG = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}

CONTAINER = '''
"""A container of float16 tensors: RAWF, a length, JSON of shapes by name, and the values in C order."""

import json, math
from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.containers.registry import Container
from layerhouse.ingest.checkpoint.tensor_ref import Contents, TensorRef


def read(path, display_path):
    raw = path.read_bytes()
    if len(raw) < 12:
        raise InputError(display_path, "too short for rawf")
    end = 12 + int.from_bytes(raw[4:12], "little")
    shapes = json.loads(raw[12:end])
    tensors = []
    for name, shape in shapes.items():
        size = 2 * math.prod(shape)
        tensors.append(TensorRef(name, "F16", tuple(shape), path, end, size))
        end += size
    return Contents("rawf", tuple(tensors), {"writer": "a test"})


CONTAINER = Container("rawf", lambda file: file.head.startswith(b"RAWF"), read)
'''

LAYOUT = '''
"""A layout of 4-bit codes in bytes: `W_blob` (out, in / 2) with `meta`."""

from layerhouse.ingest.checkpoint.layouts.module_tensors import auxiliary_ref, weight_ref
from layerhouse.ingest.checkpoint.layouts.weight_layout import WeightLayout


def claims(config, module):
    if config.method != "blobs":
        return []
    rows, width = module.parts["W_blob"].shape
    if "meta" not in module.parts:
        module.refuse("W_blob without meta")
    bits = config.number("nbits", module.name)
    weight = weight_ref(module, "W_blob", "blobs", (rows, width * 8 // bits), bits=bits)
    return [weight, auxiliary_ref(module, "meta", "blobs")]


LAYOUT = WeightLayout("blobs", claims, suffixes=("W_blob",))
'''


def rawf_bytes(shapes):
    header = json.dumps({name: list(shape) for name, shape in SHAPES.items()}).encode()
    values = b"".join(struct.pack("<e", 0.5) * math.prod(shape) for shape in shapes.values())
    return b"RAWF" + len(header).to_bytes(8, "little") + header + values


def save_packed(folder, shapes):
    """A llama in safetensors whose linear weights are `W_blob` and `meta`."""
    entries, data = {}, b""
    for name, shape in shapes.items():
        module = name.removesuffix(".weight")
        stored = {name: ("BF16", shape)}
        if "_proj." in name:
            stored = {f"{module}.W_blob": ("U8", (shape[0], shape[1] // 2)), f"{module}.meta": ("U8", (16,))}
        for key, (dtype, extents) in stored.items():
            size = math.prod(extents) * (2 if dtype == "BF16" else 1)
            entries[key] = {"dtype": dtype, "shape": list(extents), "data_offsets": [len(data), len(data) + size]}
            data += bytes(size)
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(safetensors_bytes(entries, data))
    (folder / "config.json").write_text(json.dumps(CONFIG | {"quantization_config": {"quant_method": "blobs", "nbits": 4}}))


def save_raw(folder, shapes):
    folder.mkdir()
    (folder / "pytorch_model.bin").write_bytes(rawf_bytes(shapes))
    (folder / "config.json").write_text(json.dumps(CONFIG))


def ask(tmp_path, sql):
    result = layerhouse("sql", sql, "-w", "w", "--format", "json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def ingest(tmp_path, *options):
    return layerhouse("ingest", "m", "-w", "w", *options, cwd=tmp_path, PYTHONPATH=path_with(tmp_path / "site"))


def path_with(site):
    """A PYTHONPATH with the installed packages in front of the one of this process."""
    return ":".join([str(site), *(entry for entry in sys.path if entry)])


def test_a_container_of_a_package_is_read_into_the_warehouse(tmp_path):
    save_raw(tmp_path / "m", SHAPES)
    refused = ingest(tmp_path)
    assert refused.returncode == 1
    assert "a file of an unknown kind" in refused.stderr
    install_package(tmp_path / "site", "rawf", CONTAINER, {containers.GROUP: {"rawf": "rawf:CONTAINER"}})
    assert ingest(tmp_path).returncode == 0
    rows = ask(tmp_path, "SELECT name, shape, dtype, zeros, params FROM tensors")
    assert {row["name"]: tuple(row["shape"]) for row in rows} == SHAPES
    assert {(row["dtype"], row["zeros"]) for row in rows} == {("F16", 0)}
    assert ask(tmp_path, "SELECT container FROM checkpoints") == [{"container": "rawf"}]


def test_a_layout_of_a_package_is_read_into_the_warehouse(tmp_path):
    save_packed(tmp_path / "m", SHAPES)
    install_package(tmp_path / "site", "blobs_layout", LAYOUT, {layouts.GROUP: {"blobs": "blobs_layout:LAYOUT"}})
    result = ingest(tmp_path, "--stats", "none")
    assert result.returncode == 0, result.stderr
    rows = ask(tmp_path, "SELECT name, shape, weight_shape, params, is_parameter, role FROM tensors")
    weights = {row["name"].removesuffix("W_blob") + "weight": row for row in rows if row["name"].endswith("W_blob")}
    expected = {name: list(shape) for name, shape in SHAPES.items() if "_proj." in name}
    assert {name: row["weight_shape"] for name, row in weights.items()} == expected
    assert {name: row["params"] for name, row in weights.items()} == {
        name: math.prod(shape) for name, shape in expected.items()
    }
    assert {row["role"] for row in weights.values()} >= {"q_proj", "down_proj"}
    auxiliary = [row for row in rows if row["name"].endswith(".meta")]
    assert len(auxiliary) == len(expected)
    assert not any(row["is_parameter"] for row in auxiliary)


@pytest.mark.parametrize(
    ("save", "group", "source", "reason"),
    [
        (
            save_raw,
            containers.GROUP,
            "import a_missing_module",
            "cannot be loaded: ModuleNotFoundError: No module named 'a_mis",
        ),
        (save_raw, containers.GROUP, "PART = 3", "is a int, expected a Container"),
        (save_raw, containers.GROUP, f"{CONTAINER}\nPART = Container('gguf', None, None)", "has the name 'gguf', which layerh"),
        (save_packed, layouts.GROUP, "raise SystemExit(1)", "cannot be loaded: SystemExit: 1"),
        (save_packed, layouts.GROUP, "PART = 'blobs'", "is a str, expected a WeightLayout"),
        (
            save_packed,
            layouts.GROUP,
            f"{LAYOUT}\nPART = WeightLayout('mlx', claims)",
            "has the name 'mlx', which layerhouse its",
        ),
    ],
)
def test_a_broken_entry_point_is_one_line_and_a_failure(tmp_path, save, group, source, reason):
    save(tmp_path / "m", SHAPES)
    install_package(tmp_path / "site", "broken", source, {group: {"part": "broken:PART"}})
    result = ingest(tmp_path)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if "entry point" in line]
    assert len(lines) == 1
    assert f"entry point part = broken:PART of package broken (group {group}) {reason}" in lines[0]


@pytest.mark.parametrize(
    ("save", "group", "source", "reason"),
    [
        (save_raw, containers.GROUP, f"{CONTAINER}\nPART = Container('x', lambda file: 1 / 0, read)", "ZeroDivisionError"),
        (save_raw, containers.GROUP, f"{CONTAINER}\nPART = Container('x', CONTAINER.sniff, lambda *_: 1 / 0)", "ZeroDivisionE"),
        (
            save_raw,
            containers.GROUP,
            f"{CONTAINER}\nPART = Container('x', CONTAINER.sniff, lambda *_: 3)",
            "gives a int, not C",
        ),
        (save_packed, layouts.GROUP, f"{LAYOUT}\nPART = WeightLayout('x', lambda *_: 1 / 0)", "ZeroDivisionError: division"),
        (save_packed, layouts.GROUP, f"{LAYOUT}\nPART = WeightLayout('x', lambda *_: [3])", "claims something else than"),
        (save_packed, layouts.GROUP, f"{LAYOUT}\nPART = WeightLayout('x', lambda *_: 3)", "claims something else than"),
    ],
)
def test_a_part_that_fails_is_one_line_and_a_failure(tmp_path, save, group, source, reason):
    save(tmp_path / "m", SHAPES)
    install_package(tmp_path / "site", "failing", source, {group: {"part": "failing:PART"}})
    result = ingest(tmp_path)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if "'x'" in line]
    assert len(lines) == 1
    assert reason in lines[0]


def test_an_error_of_the_package_itself_is_passed_on(tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "pytorch_model.bin").write_bytes(b"RAWF")
    install_package(tmp_path / "site", "rawf", CONTAINER, {containers.GROUP: {"rawf": "rawf:CONTAINER"}})
    result = ingest(tmp_path)
    assert result.returncode == 1
    assert "m/pytorch_model.bin: too short for rawf" in result.stderr


def test_plain_weights_look_up_no_package(tmp_path):
    code = (
        "import sys\nfrom pathlib import Path\nfrom layerhouse.ingest.checkpoint.layouts.registry import assign_layouts\n"
        "from layerhouse.tests.tiny_models import Width, llama_shapes, shape_refs\n"
        "refs = shape_refs(llama_shapes({{0: Width()}}))\n"
        "laid_out = assign_layouts(refs, {config}, 'm')\n"
        "print('importlib.metadata' in sys.modules, list(laid_out.tensors) == refs)"
    )
    for config, expected in (({}, "False True"), ({"quantization_config": {"quant_method": "x"}}, "True True")):
        run = subprocess.run(
            [sys.executable, "-c", code.format(config=config)], capture_output=True, encoding="utf-8", check=True, timeout=300
        )
        assert run.stdout.split() == expected.split()


def test_names_of_built_in_parts_are_unique():
    for parts in (containers.BUILT_IN, layouts.BUILT_IN):
        assert len({part.name for part in parts}) == len(parts)
    assert all(layout.suffixes for layout in layouts.BUILT_IN)
