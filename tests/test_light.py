"""Without torch, transformers and safetensors: everything works that needs none of them, and the rest says what to install."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys

import pytest

from layerhouse.errors import UsageError
from layerhouse.optional import require
from layerhouse.tests.running import layerhouse
from layerhouse.tests.test_containers import legacy
from layerhouse.tests.weight_files import p_dict, p_tensor
from layerhouse.warehouse.answers.query import query_names

BLOCKER = """
import os, sys

class Blocked:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in os.environ.get("BLOCKED", "torch transformers safetensors").split():
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked)
"""
PRUNED = "results/HeadPrune_2000"


@pytest.fixture(scope="module")
def blocked(tmp_path_factory):
    """Runs the command in a process that cannot import the packages."""
    folder = tmp_path_factory.mktemp("blocked")
    (folder / "sitecustomize.py").write_text(BLOCKER)
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path}
    imported = subprocess.run([sys.executable, "-c", "import torch"], env=environment, capture_output=True, check=False)
    assert b"No module named 'torch'" in imported.stderr

    def run(*arguments, **options):
        return layerhouse(*arguments, PYTHONPATH=path, **options)

    return run


@pytest.fixture(scope="module")
def study(blocked, tmp_path_factory):
    """The demo's study and a torch file from before 1.6, ingested with units."""
    folder = tmp_path_factory.mktemp("light") / "study"
    shown = blocked("demo", "--keep", folder)
    assert shown.returncode == 0, shown.stderr
    assert PRUNED in shown.stdout
    old = folder / "results/Legacy/pytorch_model.bin"
    old.parent.mkdir()
    old.write_bytes(legacy(p_dict({"model.layers.0.mlp.up_proj.weight": p_tensor()})))
    arguments = ("ingest", "baselines", "results", "--base", "baselines/Tiny-Base", "--units")
    result = blocked(*arguments, cwd=folder)
    assert (result.returncode, result.stdout) == (0, ""), result.stderr
    return folder


def test_weights_of_every_torch_format_are_counted(blocked, study):
    sql = """SELECT DISTINCT model_id, container, params, zeros FROM checkpoints
        WHERE model_id IN ('baselines/Magnitude_5000', 'results/LLM-Pruner_2000', 'results/Legacy') ORDER BY model_id"""
    result = blocked("sql", sql, "-f", "csv", cwd=study)
    assert list(csv.reader(io.StringIO(result.stdout)))[1:] == [
        ["baselines/Magnitude_5000", "safetensors", "1738880", "737280"],
        ["results/LLM-Pruner_2000", "torch zip, pickled whole model", "1425536", "0"],
        ["results/Legacy", "torch legacy", "6", "0"],
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ("summarize",),
        ("layers",),
        ("layers", PRUNED, "--picture"),
        ("performance", "--tasks", "*"),
        ("compare", PRUNED, "baselines/Tiny-Base"),
        ("tables", "tensors"),
        ("query",),
        *(("query", name) for name in query_names()),
    ],
    ids=" ".join,
)
def test_every_table_is_there(blocked, study, arguments):
    result = blocked(*arguments, cwd=study)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout


def test_spectra_are_measured_on_the_cpu(blocked, study, tmp_path):
    result = blocked("ingest", study / "results/Legacy", "--spectral", "-w", tmp_path / "w")
    assert result.returncode == 0, result.stderr
    shown = blocked("sql", "SELECT name FROM tensors WHERE spectral_norm > 0", "-f", "csv", "-w", tmp_path / "w")
    assert shown.stdout.splitlines() == ["name", "model.layers.0.mlp.up_proj.weight"]


@pytest.mark.parametrize("package", ["torch", "transformers"])
def test_a_base_from_a_config_alone_says_what_it_needs(blocked, study, tmp_path, package):
    config = study / "baselines/Tiny-Base/config.json"
    result = blocked("ingest", study / "results", "--base", config, "-w", tmp_path / "w", BLOCKED=package)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"layerhouse: a base from a config alone needs {package}: pip install {package}\n"


@pytest.fixture
def with_driver(tmp_path, monkeypatch):
    """A machine that looks as if it had an NVIDIA driver."""
    program = tmp_path / "bin/nvidia-smi"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return os.pathsep.join([str(program.parent), os.environ["PATH"]])


def test_a_gpu_says_what_it_needs(blocked, study, tmp_path, with_driver):
    arguments = ("ingest", study / "baselines/Tiny-Base", "-w", tmp_path / "w")
    for device in ("cuda", "cuda:0"):
        result = blocked(*arguments, "--device", device, PATH=with_driver)
        assert (result.returncode, result.stdout) == (2, "")
        needs = "counting on a GPU needs torch: pip install torch"
        assert result.stderr == f"layerhouse: device {device!r}: {needs}; count on the CPU with --device cpu\n"
    assert not (tmp_path / "w").exists()
    assert blocked(*arguments, "--device", "auto", PATH=with_driver).returncode == 0


def test_the_demo_imports_none_of_them():
    code = (
        "import sys\nfrom layerhouse.cli import cli\ncli.main(['demo'], standalone_mode=False)\n"
        "print(*{'torch', 'transformers', 'safetensors'} & {*sys.modules}, file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert result.stderr.splitlines()[-1] == ""


def test_a_package_that_is_there_and_broken_is_one_line_with_the_reason(tmp_path, monkeypatch):
    (tmp_path / "broken_package.py").write_text("raise ImportError('no libbroken.so\\nmore')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError) as caught:
        require("broken_package", for_what="--option")
    command = "pip install --force-reinstall broken_package"
    assert str(caught.value) == f"--option needs broken_package, which cannot be imported (no libbroken.so): {command}"
    assert require("json", for_what="--option").loads("1") == 1
