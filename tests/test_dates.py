"""The summary at two dates: what became of each model, and what it was."""

from __future__ import annotations

import csv
import io
import time
from datetime import UTC, datetime

import pytest
import torch
from safetensors.torch import save_file

import layerhouse as lh
from layerhouse.errors import NotFoundError, UsageError
from layerhouse.tests.running import layerhouse
from layerhouse.warehouse.admin.removals import drop_model


def put_model(folder, *, rows, zeros=0):
    weight = torch.ones(rows, 8)
    weight[:zeros] = 0
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"model.layers.0.mlp.up_proj.weight": weight}, folder / "model.safetensors")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A base and three models; then one changes, one gets another base, one goes and one comes."""
    root = tmp_path_factory.mktemp("dates")
    for name, rows in (("base", 16), ("small", 8), ("dense", 16), ("gone", 12), ("other", 14)):
        put_model(root / "m" / name, rows=rows, zeros=4 if name == "dense" else 0)
    lh.ingest(root / "m", warehouse=root / "w", base=str(root / "m/base"))
    time.sleep(0.01)
    then = datetime.now(UTC).isoformat()
    time.sleep(0.01)
    put_model(root / "m/small", rows=4)
    put_model(root / "m/new", rows=2)
    lh.ingest(root / "m", warehouse=root / "w", base=str(root / "m/base"))
    lh.ingest(root / "m/dense", warehouse=root / "w", base="m/other")
    drop_model(root / "w", "m/gone")
    return root, then


def test_each_model_says_what_became_of_it(study):
    root, then = study
    with lh.open(root / "w") as wh:
        rows = {row["model_id"]: row for row in wh.since(then).to_dicts()}
        assert {name: row["change"] for name, row in rows.items() if name != "m/other"} == {
            "m/base": "unchanged",
            "m/dense": "other base",
            "m/gone": "gone",
            "m/new": "new",
            "m/small": "other weights",
        }
        small = rows["m/small"]
        assert (small["earlier_params"], small["params"], small["params_change"]) == (64, 32, -32)
        assert (small["earlier_reduction_ratio"], small["reduction_ratio"]) == (0.5, 0.75)
        assert (rows["m/new"]["earlier_params"], rows["m/gone"]["params"]) == (None, None)
        assert (rows["m/dense"]["earlier_sparsity"], rows["m/dense"]["sparsity"]) == (0.25, 0.25)
        assert wh.since(then, models=["m/s*"])["model_id"].to_list() == ["m/small"]
        assert wh.since(then, models=["m/gone"])["change"].to_list() == ["gone"]
        with pytest.raises(NotFoundError, match="no model 'm/x'"):
            wh.since(then, models=["m/x"])
        with pytest.raises(UsageError, match="not a time"):
            wh.since("yesterday")


def test_the_command_takes_both_dates(study):
    root, then = study
    options = ("--since", then, "--columns", "model,change", "--sort", "-change", "-f", "csv")
    rows = list(csv.reader(io.StringIO(layerhouse("summarize", *options, cwd=root, LAYERHOUSE_WAREHOUSE="w").stdout)))
    assert rows[0] == ["model_id", "change"]
    assert rows[-1] == ["m/gone", "gone"]
    same = layerhouse("summarize", "-w", "w", "--as-of", then, *options, cwd=root).stdout
    assert {line.split(",")[1] for line in same.splitlines()[1:]} == {"unchanged"}
