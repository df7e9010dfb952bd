"""`layerhouse.ingest` is a function and a package at once."""

from __future__ import annotations

import inspect
import pkgutil
import subprocess
import sys
from unittest import mock

import pytest

import layerhouse as lh
import layerhouse.ingest.run
import layerhouse.ingest.run as run_module
from layerhouse.ingest import run as run_from_package
from layerhouse.ingest.measure.io import file_window
from layerhouse.ingest.run import Report
from layerhouse.tests.weight_files import entry, safetensors_bytes

WEIGHTS = safetensors_bytes({"model.embed_tokens.weight": entry("F32", [2, 2], 0, 16)}, bytes(range(16)))


def test_every_way_to_import_gives_the_one_module():
    assert run_module is run_from_package is sys.modules["layerhouse.ingest.run"] is layerhouse.ingest.run
    assert layerhouse.ingest.run.Report is Report
    assert lh.ingest is sys.modules["layerhouse.ingest"]


@pytest.mark.parametrize(
    "code",
    [
        "import layerhouse.ingest.run; layerhouse.ingest.run.Report",
        "import layerhouse; import layerhouse.ingest.run as r; r.Report",
        "from layerhouse.ingest.run import Report; import layerhouse; layerhouse.ingest.run.Report",
        "import importlib; importlib.import_module('layerhouse.ingest.run').Report",
        "import layerhouse.ingest as i; i([], warehouse='w', dry_run=True)",
        "from layerhouse import ingest; ingest([], warehouse='w', dry_run=True)",
    ],
)
def test_it_works_whatever_is_imported_first(code, tmp_path):
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    assert not (tmp_path / "w").exists()


def test_names_in_it_are_resolved_as_mock_resolves_them():
    assert pkgutil.resolve_name("layerhouse.ingest.run:Report") is Report
    assert pkgutil.resolve_name("layerhouse.ingest.run.Report") is Report
    with mock.patch("layerhouse.ingest.run.Report", "patched"):
        assert run_module.Report == "patched"
    assert run_module.Report is Report


def test_its_signature_and_its_help_are_those_of_the_function():
    parameters = inspect.signature(lh.ingest).parameters
    assert list(parameters)[:2] == ["roots", "warehouse"]
    assert parameters["base"].kind is inspect.Parameter.KEYWORD_ONLY
    assert inspect.signature(lh.ingest).return_annotation == "Report"
    for name in parameters:
        assert name in lh.ingest.__doc__, name


def test_it_ingests_and_refuses_what_the_function_refuses(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(WEIGHTS)
    report = lh.ingest(tmp_path / "model.safetensors", warehouse=tmp_path / "w")
    assert [event.kind for event in report.events] == ["taken"]
    with lh.open(tmp_path / "w") as wh:
        assert wh.models()["params"].to_list() == [4]
    with pytest.raises(TypeError, match="bsae"):
        lh.ingest([], bsae="x")


def test_files_are_mapped_only_in_calls_that_ask_for_it(tmp_path, monkeypatch):
    wanted = []
    open_window = file_window.FileWindow.of
    monkeypatch.setattr(
        file_window.FileWindow, "of", lambda size: wanted.append(file_window._are_mappings_used) or open_window(size)
    )
    for number, arguments in enumerate(({}, {"map_files": True}, {"map_files": False})):
        (tmp_path / f"m{number}").mkdir()
        (tmp_path / f"m{number}/model.safetensors").write_bytes(WEIGHTS)
        lh.ingest([tmp_path / f"m{number}"], warehouse=tmp_path / "w", **arguments)
        assert {*wanted} == {bool(arguments.get("map_files"))}
        wanted.clear()
