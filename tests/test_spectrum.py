"""Spectral numbers equal those of SVD in float64 and of a known power law, and are added to earlier measurements."""

from __future__ import annotations

import json
import math
from unittest import mock

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import layerhouse as lh
from layerhouse.errors import InputError, UsageError
from layerhouse.ingest import take_weights as checkpoints
from layerhouse.ingest.checkpoint.tensor_ref import TensorRef
from layerhouse.ingest.measure import solvers
from layerhouse.ingest.measure import spectrum as module
from layerhouse.ingest.measure.spectrum import (
    Spectrum,
    describe_values,
    fit_alpha,
    measure_spectra,
)
from layerhouse.tests.running import layerhouse
from layerhouse.tests.tiny_models import EXPLICIT, TinyModel, build
from layerhouse.warehouse.admin.health import check_warehouse

COLUMNS = ("spectral_norm", "stable_rank", "effective_rank", "alpha")


def ref_of(path, tensor: torch.Tensor) -> TensorRef:
    codes = {torch.float32: "F32", torch.float64: "F64", torch.bfloat16: "BF16", torch.int8: "I8", torch.float16: "F16"}
    raw = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    path.write_bytes(raw)
    return TensorRef(path.name, codes[tensor.dtype], tuple(tensor.shape), path, 0, len(raw))


def measure_one(ref: TensorRef, solver: str = "cpu") -> Spectrum:
    make_solver = {"cpu": solvers.make_solver, "torch": lambda device: solvers.TorchSolver("cpu")}[solver]
    with mock.patch.object(module, "make_solver", make_solver):
        [spectrum] = measure_spectra([ref], "cpu")
    return spectrum


def assert_close(spectrum: Spectrum, matrix: np.ndarray) -> None:
    """The numbers are those of numpy's singular values in float64."""
    values = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
    shares = values[values > 0] / values.sum()
    assert spectrum.spectral_norm == pytest.approx(values[0], rel=1e-5)
    assert spectrum.stable_rank == pytest.approx((np.linalg.norm(matrix.astype(np.float64)) / values[0]) ** 2, rel=1e-5)
    assert spectrum.effective_rank == pytest.approx(math.exp(-(shares * np.log(shares)).sum()), rel=1e-5)
    assert spectrum.alpha == pytest.approx(fit_alpha(values**2), rel=1e-3)
    assert spectrum.reason is None


@pytest.mark.parametrize("solver", ["cpu", "torch"])
@pytest.mark.parametrize("whole_bytes", [1 << 28, 4096])
@pytest.mark.parametrize("shape", [(64, 64), (60, 300), (700, 90), (257, 129)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_numbers_are_those_of_numpy_in_float64(tmp_path, monkeypatch, solver, whole_bytes, shape, dtype):
    monkeypatch.setattr(module, "WHOLE_BYTES", whole_bytes)
    weight = (torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 0.02).to(dtype)
    assert_close(measure_one(ref_of(tmp_path / "w", weight), solver), weight.double().numpy())


def test_a_view_and_any_scale_are_measured_alike(tmp_path):
    weight = torch.randn(80, 60, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    plain = measure_one(ref_of(tmp_path / "w", weight))
    ref = ref_of(tmp_path / "t", weight.T)
    view = TensorRef("t", "F64", (80, 60), ref.path, 0, ref.storage_bytes, 0, (1, 80))
    assert measure_one(view) == plain
    for exponent in (-900, 900):
        scaled = measure_one(ref_of(tmp_path / "s", weight * 2.0**exponent))
        assert scaled.spectral_norm == plain.spectral_norm * 2.0**exponent
        assert (scaled.stable_rank, scaled.alpha) == (plain.stable_rank, plain.alpha)


def test_known_spectra(tmp_path):
    identity = measure_one(ref_of(tmp_path / "i", torch.eye(64)))
    assert (identity.spectral_norm, identity.stable_rank) == (pytest.approx(1), pytest.approx(64))
    assert identity.effective_rank == pytest.approx(64)
    assert (identity.alpha, "none that differ" in identity.reason) == (None, True)
    single = measure_one(ref_of(tmp_path / "o", torch.ones(60, 70, dtype=torch.int8)))
    assert single.spectral_norm == pytest.approx(math.sqrt(60 * 70))
    assert single.stable_rank == pytest.approx(1)
    assert single.effective_rank == pytest.approx(1, abs=1e-3)
    zeros = measure_one(ref_of(tmp_path / "z", torch.zeros(60, 70)))
    assert zeros == Spectrum(0.0, reason="all zero")


@pytest.mark.parametrize("exponent", [2.2, 3.0, 4.5])
def test_the_exponent_of_a_power_law_is_found(exponent):
    quantiles = (np.arange(4000) + 0.5) / 4000
    law = (1 - quantiles) ** (-1 / (exponent - 1))
    assert fit_alpha(law) == pytest.approx(exponent, rel=0.01)
    assert fit_alpha(7e-9 * law[::-1]) == pytest.approx(fit_alpha(law), rel=1e-9)


def test_the_tail_starts_where_the_power_law_does():
    quantiles = (np.arange(1000) + 0.5) / 1000
    tail = 5 * (1 - quantiles) ** (-1 / 1.5)
    bulk = np.linspace(0.01, 5, 4000, endpoint=False)
    assert fit_alpha(np.concatenate((bulk, tail))) == pytest.approx(2.5, rel=0.03)


def test_too_few_values_have_no_exponent():
    assert fit_alpha(np.geomspace(1, 9, 49)) is None
    assert fit_alpha(np.geomspace(1, 9, 50)) is not None
    assert fit_alpha(np.ones(50)) is None
    assert fit_alpha(np.empty(0)) is None
    assert describe_values(np.geomspace(9, 1, 49), 49).reason.startswith("no alpha: under 50 singular values")


def test_alpha_leaves_out_values_within_the_rounding_errors_of_float32():
    """Values up to s1 * larger dimension * 2**-23 may be rounding errors: not part of the tail, nor counted as values."""
    quantiles = (np.arange(400) + 0.5) / 400
    values = np.sqrt(1 / (1 - quantiles))[::-1] * 5
    for larger in (100, 10**6):
        above = values[values > values[0] * larger / (1 << 23)]
        expected = fit_alpha(np.square(above / values[0]))
        assert describe_values(values, larger).alpha == expected
        assert (above.size == 400) == (larger == 100) == (expected == fit_alpha(np.square(values / values[0])))
    few = np.concatenate((np.geomspace(1, 1e-3, 49), np.full(60, 1e-5)))
    assert describe_values(few, 100).alpha is None
    assert describe_values(few, 50).alpha is not None
    assert describe_values(few, 100).effective_rank == describe_values(few, 50).effective_rank


def test_a_tensor_without_a_spectrum_has_a_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_SMALLER", 32)
    reasons = [
        (torch.full((8, 8), math.nan), "some values are not finite"),
        (torch.tensor([[1.0, math.inf]]), "some values are not finite"),
        (torch.ones(33, 33), "both dimensions are over 32"),
        (torch.ones(0, 5), "empty"),
        (torch.ones(5), "no matrix of plain numbers"),
    ]
    for tensor, reason in reasons:
        assert measure_one(ref_of(tmp_path / "w", tensor)) == Spectrum(reason=reason)
    assert measure_one(ref_of(tmp_path / "w", torch.ones(33, 32))).spectral_norm == pytest.approx(math.sqrt(33 * 32))


def test_missing_bytes_and_a_failing_device_are_errors(tmp_path):
    ref = ref_of(tmp_path / "w", torch.ones(64, 64))
    with (
        mock.patch.object(torch.linalg, "svdvals", side_effect=RuntimeError("out of memory\nmore")),
        pytest.raises(UsageError, match="device 'cpu': out of memory; measure on the CPU"),
    ):
        measure_one(ref, "torch")
    (tmp_path / "w").write_bytes(b"x")
    with pytest.raises(InputError, match="the file ends at byte 1"):
        measure_one(ref)


# In a warehouse


@pytest.fixture(scope="module")
def llama():
    model = build(TinyModel("llama", EXPLICIT))
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    return state, json.loads(model.config.to_json_string(use_diff=False))


@pytest.fixture
def study(llama, tmp_path):
    """A function that ingests a folder with one tiny Llama."""
    state, config = llama
    folder = tmp_path / "models/a"
    folder.mkdir(parents=True)
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return lambda **options: lh.ingest([tmp_path / "models"], warehouse=tmp_path / "w", threads=1, **options)


def answer(tmp_path, sql):
    with lh.open(tmp_path / "w") as wh:
        return wh.sql(sql).rows()


def counts(tmp_path):
    """The number of tensors, of those with a spectral norm, of those with near zeros; and the views' stats levels."""
    (row,) = answer(tmp_path, "SELECT count(*), count(spectral_norm), count(near_zeros) FROM tensors")
    with lh.open(tmp_path / "w") as wh:
        scanned = wh.scan("tensors").collect()
    assert (scanned.height, scanned["spectral_norm"].count(), scanned["near_zeros"].count()) == row
    ((levels,),) = answer(tmp_path, "SELECT list(stats_level ORDER BY stats_level) FROM checkpoint_facts")
    return (*row, *levels)


def test_every_matrix_of_a_model_has_numbers_and_vectors_have_none(llama, study, tmp_path):
    assert study(stats="spectral").count("taken") == 1
    state = llama[0]
    matrices = sum(tensor.ndim == 2 for tensor in state.values())
    assert counts(tmp_path) == (len(state), matrices, 0, "spectral")
    for name, norm, stable, effective, alpha in answer(tmp_path, f"SELECT name, {', '.join(COLUMNS)} FROM tensors"):
        if state[name].ndim != 2:
            assert (norm, stable, effective, alpha) == (None,) * 4
            continue
        values = np.linalg.svd(state[name].double().numpy(), compute_uv=False)
        assert norm == pytest.approx(values[0], rel=1e-5)
        assert stable == pytest.approx((values**2).sum() / values[0] ** 2, rel=1e-5)
        assert (alpha is None) == (min(state[name].shape) < 50)
    ((notes,),) = answer(tmp_path, "SELECT [n.text FOR n IN notes IF n.code = 'spectral'] FROM checkpoint_facts")
    assert len(notes) == 1
    assert notes[0].endswith("no alpha: under 50 singular values, or none that differ")


def test_spectra_are_added_without_counting_again(llama, study, tmp_path):
    study()
    tensors, matrices = len(llama[0]), sum(tensor.ndim == 2 for tensor in llama[0].values())
    columns = "name, content_hash, zeros, mean, std, abs_quantiles, signature, dtype, shape, params"
    before = answer(tmp_path, f"SELECT {columns} FROM tensors ORDER BY name")
    with mock.patch.object(checkpoints, "measure_weights", side_effect=AssertionError("counted again")):
        assert study(stats="spectral").count("taken") == 1
    assert counts(tmp_path) == (tensors, matrices, 0, "spectral")
    assert answer(tmp_path, f"SELECT {columns} FROM tensors ORDER BY name") == before
    assert answer(tmp_path, "SELECT count(DISTINCT checkpoint_id), count(DISTINCT device) FROM sightings") == [(1, 1)]
    for stats in ("spectral", "full", "none"):
        assert study(stats=stats).count("unchanged") == 1
    assert check_warehouse(tmp_path / "w") == []


def test_near_zeros_are_counted_on_request_and_spectra_stay(llama, study, tmp_path):
    tensors, matrices = len(llama[0]), sum(tensor.ndim == 2 for tensor in llama[0].values())
    study()
    assert study(near_zero=0.01).count("taken") == 1
    assert counts(tmp_path) == (tensors, 0, tensors, "full")
    assert study(near_zero=0.01).count("unchanged") == 1
    assert study(stats="spectral").count("taken") == 1
    assert counts(tmp_path) == (tensors, matrices, tensors, "spectral")
    with mock.patch.object(checkpoints, "add_spectra", side_effect=AssertionError("measured again")):
        assert study(near_zero=0.02).count("taken") == 1
    assert counts(tmp_path)[:3] == (tensors, matrices, tensors)
    assert answer(tmp_path, "SELECT DISTINCT near_zero_threshold FROM tensors") == [(0.02,)]
    state = llama[0]
    for name, near in answer(tmp_path, "SELECT name, near_zeros FROM tensors"):
        assert near == int((state[name].double().abs() <= 0.02).sum())
    assert study().count("unchanged") == 1


def test_a_copy_in_another_folder_adds_the_missing_numbers(llama, study, tmp_path):
    study(near_zero=0.01)
    (tmp_path / "models/b").mkdir()
    for name in ("model.safetensors", "config.json"):
        (tmp_path / "models/b" / name).write_bytes((tmp_path / "models/a" / name).read_bytes())
    (tmp_path / "models/a/model.safetensors").unlink()
    assert study(stats="spectral").count("taken") == 1
    matrices = sum(tensor.ndim == 2 for tensor in llama[0].values())
    assert counts(tmp_path)[:3] == (len(llama[0]), matrices, len(llama[0]))


def test_as_of_an_earlier_time_the_measurements_of_then_are_shown(study, tmp_path):
    study()
    ((then,),) = answer(tmp_path, "SELECT max(ingested_at) FROM checkpoints")
    study(stats="spectral")
    with lh.open(tmp_path / "w", as_of=then) as wh:
        assert wh.sql("SELECT count(spectral_norm), count(mean) > 0 FROM tensors").rows() == [(0, True)]
        assert wh.scan("tensors").collect()["spectral_norm"].count() == 0


def test_the_command_refuses_contradicting_options(tmp_path):
    (tmp_path / "models").mkdir()
    both = layerhouse("ingest", "models", "--spectral", "--stats", "none", cwd=tmp_path)
    assert (both.returncode, both.stderr.count("\n")) == (2, 1)
    assert "--spectral reads weights, and --stats none does not" in both.stderr
    unknown = layerhouse("ingest", "models", "--device", "gpu0", cwd=tmp_path)
    assert (unknown.returncode, unknown.stderr) == (
        2,
        "layerhouse: device 'gpu0': there is cpu, cuda, cuda:N (N from 0) and auto\n",
    )
    assert not (tmp_path / "layerhouse-data").exists()
