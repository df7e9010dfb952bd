"""`layerhouse expect`: conditions on models and layers, for a pipeline that stops where one is not met."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from safetensors.torch import load_file, save_file

import layerhouse as lh
from layerhouse.tests.running import layerhouse
from layerhouse.tests.tiny_models import GROUPED, TinyModel, build


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory) -> Path:
    """A base, a model of which 48 % of the prunable weights are zero, one that only its headers are known of, and an
    embedding."""
    folder = tmp_path_factory.mktemp("nightly")
    build(TinyModel("llama", GROUPED)).save_pretrained(folder / "zoo" / "base")
    state = load_file(folder / "zoo" / "base" / "model.safetensors")
    for name, tensor in state.items():
        if "_proj" in name:
            flat = tensor.view(-1)
            flat[: flat.numel() * 48 // 100] = 0
    for name in ("masked", "headers"):
        (folder / "zoo" / name).mkdir()
        save_file(state, folder / "zoo" / name / "model.safetensors")
        (folder / "zoo" / name / "config.json").write_bytes((folder / "zoo" / "base" / "config.json").read_bytes())
    (folder / "zoo" / "table").mkdir()
    save_file({"embedding.weight": torch.ones(4, 4)}, folder / "zoo" / "table" / "model.safetensors")
    roots = [folder / "zoo" / name for name in ("base", "masked")]
    lh.ingest(roots, base=roots[0], warehouse=folder / "wh")
    lh.ingest([folder / "zoo" / "headers"], warehouse=folder / "wh", stats="none")
    lh.ingest([folder / "zoo" / "table"], warehouse=folder / "wh")
    return folder / "wh"


def expect(warehouse: Path, *arguments: str):
    done = layerhouse("expect", *arguments, "-w", str(warehouse))
    return done.returncode, done.stdout.splitlines(), done.stderr.strip()


def test_a_condition_that_is_not_met_is_a_line_with_the_value_and_exit_code_1(warehouse):
    found = expect(warehouse, "prunable_sparsity >= 0.49", "removed_layers = []", "-m", "*/masked")
    share = lh.open(warehouse).models().filter(lh_model("masked"))["prunable_sparsity"].item()
    assert 0.47 < share < 0.49
    line = f"FAILED  zoo/masked: prunable_sparsity >= 0.49: prunable_sparsity is {share}"
    assert found == (1, [line], "1 of 2 expectations are met")
    assert expect(warehouse, "prunable_sparsity >= 0.47", "-m", "*/masked") == (0, [], "1 of 1 expectation is met")


def lh_model(name: str):
    import polars as pl

    return pl.col("model_id").str.ends_with(name)


def test_what_is_not_known_is_not_met_and_says_why(warehouse):
    code, lines, _ = expect(warehouse, "prunable_sparsity >= 0.49", "-m", "zoo/headers")
    text = "prunable_sparsity is null (its values were not read: --stats none)"
    assert (code, lines) == (1, [f"FAILED  zoo/headers: prunable_sparsity >= 0.49: {text}"])


def test_layers_are_asked_one_by_one_and_a_model_without_any_fails(warehouse):
    code, lines, summary = expect(warehouse, "retention > 0.5", "--each", "layers", "-m", "zoo/masked", "-m", "zoo/table")
    assert (code, summary) == (1, "4 of 5 expectations are met")
    assert lines == ["FAILED  zoo/table: retention > 0.5: false (no layers are known)"]
    code, lines, _ = expect(warehouse, "layer_index < 3", "--each", "layers", "-m", "zoo/base")
    assert lines == ["FAILED  zoo/base, text layer 3: layer_index < 3: layer_index is 3"]


def test_json_and_junit_have_every_outcome(warehouse):
    code, lines, _ = expect(warehouse, "params > 0", "zeros_of < 1", "-f", "json")
    assert (code, lines) == (2, [])
    code, lines, _ = expect(warehouse, "prunable_sparsity < 0.1", "-m", "zoo/base", "-m", "zoo/masked", "-f", "json")
    document = json.loads("\n".join(lines))
    assert (code, document["checked"], document["failed"]) == (1, 2, 1)
    assert [(row["model_id"], row["is_met"]) for row in document["outcomes"]] == [("zoo/base", True), ("zoo/masked", False)]
    assert document["outcomes"][0]["values"] == {"prunable_sparsity": 0.0}
    code, lines, _ = expect(warehouse, "family <> '<&'", "params < 5", "-m", "zoo/base", "-f", "junit")
    suite = ElementTree.fromstring("\n".join(lines))
    assert (code, suite.get("tests"), suite.get("failures")) == (1, "2", "1")
    assert [(case.get("name"), len(case)) for case in suite] == [("family <> '<&'", 0), ("params < 5", 1)]


FILE = """
[[expect]]
that = ["prunable_sparsity >= 0.4", "num_layers = 4"]
models = "zoo/masked"

[[expect]]
that = "num_heads = 3"
models = ["zoo/base"]
each = "layers"
"""


def test_a_file_of_expectations(warehouse, tmp_path):
    (tmp_path / "expect.toml").write_text(FILE, "utf-8")
    code, lines, summary = expect(warehouse, "--file", str(tmp_path / "expect.toml"))
    assert (code, summary) == (1, "2 of 6 expectations are met")
    assert lines[0] == "FAILED  zoo/base, text layer 0: num_heads = 3: num_heads is 4"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[[expect]]\nthat = 3\n", "expect 1: 'that'"),
        ("[[expect]]\nthta = 'x'\n", "expect 1: 'thta'"),
        ("[[expect]]\nmodels = 'x'\n", "expect 1: no condition"),
        ("[[expect]]\nthat = ''\n[[expect]]\nthat = 'a'\neach = 'heads'\n", "expect 2: each is 'heads'"),
        ("that = 'x'\n", "tables [[expect]] and nothing else"),
        ("[[expect\n", "expect.toml: "),
        ("[[expect]]\nthat = [1]\n", "not a text or a list of texts"),
    ],
)
def test_a_file_that_is_wrong_is_one_line(text, what, warehouse, tmp_path):
    (tmp_path / "expect.toml").write_text(text, "utf-8")
    code, lines, error = expect(warehouse, "--file", str(tmp_path / "expect.toml"))
    assert (code, lines) == (2, [])
    assert what in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ((), "no condition"),
        (("nope = 1",), 'column "nope" not found'),
        (("true); SELECT (1",), "it is not one condition"),
        (("(SELECT count(*) FROM read_text('/etc/hosts')) > 0",), "refused"),
        (("true", "-m", "zoo/none"), "no model 'zoo/none'"),
        (("sum(params) > 0",), "must appear in the GROUP BY clause"),
    ],
)
def test_a_condition_that_cannot_be_asked_is_one_line_and_exit_code_2(arguments, what, warehouse):
    code, lines, error = expect(warehouse, *arguments)
    assert (code, lines) == (2, [])
    assert what in error


def test_nothing_is_met_where_no_model_is(tmp_path):
    (tmp_path / "none").mkdir()
    lh.ingest([tmp_path / "none"], warehouse=tmp_path / "wh")
    code, _, error = expect(tmp_path / "wh", "true")
    assert (code, "no model is there" in error) == (2, True)
