"""Limits on what files may claim: one factor for all, named in the line that refuses."""

from __future__ import annotations

import pytest

import layerhouse as lh
from layerhouse.errors import InputError, UsageError
from layerhouse.ingest.checkpoint.limits import allowed, check_limit, scaled_limits
from layerhouse.tests.running import layerhouse
from layerhouse.tests.weight_files import safetensors_bytes


def model_of(tmp_path, tensors):
    entries = {f"t{index}": {"dtype": "U8", "shape": [1], "data_offsets": [index, index + 1]} for index in range(tensors)}
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model.safetensors").write_bytes(safetensors_bytes(entries, bytes(tensors)))


def test_a_factor_holds_until_its_block_ends():
    with scaled_limits(0.5):
        assert allowed(10) == 5
        with scaled_limits(3):
            assert allowed(10) == 30
        with pytest.raises(InputError, match="a: limit exceeded: 6 things, over 5; --limit-factor raises it"):
            check_limit("a", "things", 6, 10)
        check_limit("a", "things", 5, 10)
    assert allowed(10) == 10


@pytest.mark.parametrize("factor", [0, -1, float("inf"), float("nan")])
def test_a_factor_is_a_positive_number(factor):
    with pytest.raises(UsageError, match="limit factor"), scaled_limits(factor):
        pass


def test_ingest_takes_the_factor(tmp_path):
    model_of(tmp_path, 5)
    report = lh.ingest(tmp_path / "m", warehouse=tmp_path / "w", limit_factor=2e-5)
    assert [event.what for event in report.events if event.kind == "failed"] == [
        "limit exceeded: 5 tensors, over 4; --limit-factor raises it"
    ]
    strict = layerhouse("ingest", "m", "-w", "w", "--limit-factor", "2e-5", cwd=tmp_path)
    assert strict.returncode == 1
    assert "limit exceeded: 5 tensors, over 4" in strict.stderr + strict.stdout
    assert layerhouse("ingest", "m", "-w", "w", "--limit-factor", "3e-5", cwd=tmp_path).returncode == 0
