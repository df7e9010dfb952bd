"""Whatever goes wrong while one input is read is a line about that input, nothing of it is stored, and the others are taken."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

import layerhouse as lh
from layerhouse.errors import InputError, UnexpectedError, UsageError, WarehouseError
from layerhouse.ingest import checkpoint_rows, compare_with_base, folder_files, plan, result_files, take_analysis, take_weights
from layerhouse.ingest.checkpoint.guard import Guard
from layerhouse.tests.plugin_packages import install_package
from layerhouse.tests.running import CLEAN, layerhouse
from layerhouse.tests.study_files import ANALYSIS, RESULT, lines, put, result, structure
from layerhouse.tests.study_files import ingest as ingest_files

ERRORS = [KeyError("x\ny"), RecursionError("deep"), MemoryError(), OSError(36, "File name too long"), ZeroDivisionError("0")]


def put_model(folder, seed, layers=2, **more):
    state = {
        f"model.layers.{layer}.mlp.{role}.weight": torch.randn(8, 8, generator=torch.Generator().manual_seed(layer))
        for layer in range(layers)
        for role in ("up_proj", "down_proj")
    }
    state["model.layers.0.mlp.up_proj.weight"][0] = seed
    folder.mkdir(parents=True)
    save_file(state | more, folder / "model.safetensors")


@pytest.fixture
def zoo(tmp_path):
    """Three models, each with an analysis that its weights outrank and a result."""
    for number, name in enumerate("ABC"):
        put_model(tmp_path / "zoo" / name, number)
        put(tmp_path / "zoo" / name / ANALYSIS, structure((400, 600), (400, 600)))
        put(tmp_path / "zoo" / name / RESULT, result(10.0 + number))
    return tmp_path / "zoo"


def fail_once(monkeypatch, module, name, error, *, is_at_fault):
    """Let a function of a module raise where its arguments are those of the input at fault."""
    function = getattr(module, name)

    def broken(*args, **kwargs):
        if is_at_fault(repr(args) + repr(kwargs)):
            raise error
        return function(*args, **kwargs)

    monkeypatch.setattr(module, name, broken)


def failures(report):
    return [event for event in report.events if event.kind == "failed"]


def stored(warehouse, table):
    with lh.open(warehouse) as wh:
        return {name for (name,) in wh.sql(f"SELECT DISTINCT model_id FROM {table} WHERE model_id IS NOT NULL").rows()}


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_unexpected_error_is_one_line_with_its_name_and_a_request(error):
    caught = []
    with Guard().reading("somewhere", caught.append):
        raise error
    (failure,) = caught
    assert isinstance(failure, UnexpectedError)
    assert failure.where == "somewhere"
    assert type(error).__name__ in failure.what
    assert "please report" in failure.what
    assert "\n" not in failure.what


def test_errors_of_inputs_stay_as_they_are_and_those_of_the_run_pass_through():
    caught = []
    with Guard().reading("x", caught.append):
        raise InputError("file", "cut off")
    assert [str(error) for error in caught] == ["file: cut off"]
    for error in (UsageError("wrong"), WarehouseError("full"), KeyboardInterrupt(), SystemExit(3)):
        with pytest.raises(type(error)), Guard().reading("x", caught.append):
            raise error
    assert len(caught) == 1


def test_an_exception_without_a_text_of_its_own_has_a_line():
    class Mute(Exception):
        def __str__(self):
            raise ValueError("no text")

    caught = []
    with Guard().reading("x", caught.append):
        raise Mute
    assert caught[0].what.startswith("unexpected Mute; please report this")


STEPS = {
    "sorting a folder": (folder_files, "is_slicegpt_pair", lambda text: "zoo/B/model" in text),
    "looking for results": (result_files, "recognise", lambda text: "zoo/B/" in text),
    "planning": (plan, "total_size", lambda text: "zoo/B/" in text),
    "reading weights": (take_weights, "open_weights", lambda text: "zoo/B" in text),
    "rows of weights": (checkpoint_rows, "layer_rows", lambda text: "zoo/B/" in text),
    "reading an analysis": (take_analysis, "read_file", lambda text: "zoo/B/" in text),
    "making rows of an analysis": (take_analysis, "combine", lambda text: "zoo/B" in text),
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_in_any_step_costs_its_input_alone(zoo, tmp_path, monkeypatch, step, workers):
    module, name, is_at_fault = STEPS[step]
    fail_once(monkeypatch, module, name, IndexError("list index out of range"), is_at_fault=is_at_fault)
    report = lh.ingest(zoo, warehouse=tmp_path / "w", workers=workers)
    assert [event.where for event in report.events if event.kind == "taken" and not event.where.endswith("B")] == [
        "zoo/A",
        "zoo/C",
    ]
    assert {"zoo/A", "zoo/C"} <= stored(tmp_path / "w", "models")
    failed = failures(report)
    assert failed
    for event in failed:
        assert event.where.startswith(str(zoo / "B"))
        assert "IndexError: list index out of range" in event.what
        assert "please report" in event.what
    monkeypatch.undo()
    again = lh.ingest(zoo, warehouse=tmp_path / "w", workers=workers)
    assert failures(again) == []
    assert stored(tmp_path / "w", "models") == {"zoo/A", "zoo/B", "zoo/C"}
    with lh.open(tmp_path / "w") as wh:
        assert wh.sql("SELECT count(*), count(DISTINCT checkpoint_id || name) FROM tensors").rows() == [(12, 12)]


@pytest.mark.parametrize("error", [MemoryError(), RecursionError("maximum recursion depth exceeded"), TypeError("x")])
def test_an_error_in_a_comparison_leaves_the_model_and_nothing_of_the_comparison(zoo, tmp_path, monkeypatch, error):
    relate = compare_with_base.Comparer._relate_tensors

    def broken(self, checkpoint, base, matches):
        related = relate(self, checkpoint, base, matches)
        if checkpoint.model_id == "zoo/B":
            raise error
        return related

    monkeypatch.setattr(compare_with_base.Comparer, "_relate_tensors", broken)
    report = lh.ingest(zoo, warehouse=tmp_path / "w", base=zoo / "A")
    (failed,) = failures(report)
    assert failed.where == "zoo/B"
    assert type(error).__name__ in failed.what
    count = "SELECT count(DISTINCT m.checkpoint_id) FROM layer_matches m JOIN current_checkpoints USING (checkpoint_id)"
    with lh.open(tmp_path / "w") as wh:
        assert wh.sql(f"{count} WHERE model_id = 'zoo/B'").rows() == [(0,)]
        assert wh.sql(f"{count} WHERE model_id = 'zoo/C'").rows() == [(1,)]
    monkeypatch.undo()
    lh.ingest(zoo, warehouse=tmp_path / "w", base=zoo / "A")
    with lh.open(tmp_path / "w") as wh:
        assert wh.sql(f"{count} WHERE model_id = 'zoo/B'").rows() == [(1,)]


def test_a_twin_of_a_model_that_broke_off_has_all_of_its_rows(tmp_path, monkeypatch):
    """The rows of contents that two models share come with the second one if the first one is dropped."""
    for name in "AB":
        put_model(tmp_path / "zoo" / name, 1)
    remember = take_weights.WeightsTaker._remember

    def broken(self, model, weights, checkpoint):
        remember(self, model, weights, checkpoint)
        if model.model_id == "zoo/A":
            raise MemoryError

    monkeypatch.setattr(take_weights.WeightsTaker, "_remember", broken)
    report = lh.ingest(tmp_path / "zoo", warehouse=tmp_path / "w")
    assert [event.where for event in failures(report)] == [f"{tmp_path}/zoo/A"]
    with lh.open(tmp_path / "w") as wh:
        assert wh.sql("SELECT model_id, params FROM models").rows() == [("zoo/B", 256)]
        assert wh.sql("SELECT count(*), sum(params) FROM tensors").rows() == [(4, 256)]


def test_rows_that_cannot_be_stored_are_refused_with_their_input(tmp_path, monkeypatch):
    """An integer beyond the column: the commit of all others goes through."""
    read = result_files.ResultFiles.take

    def broken(self, path, display_path):
        file_id, parsed = read(self, path, display_path)
        if "B" in path.parts:
            parsed.rows[0]["n_samples"] = 10**30
        return file_id, parsed

    monkeypatch.setattr(result_files.ResultFiles, "take", broken)
    for number, name in enumerate("ABC"):
        put(tmp_path / "zoo" / name / RESULT, result(10.0 + number))
    report = lh.ingest(tmp_path / "zoo", warehouse=tmp_path / "w")
    (failed,) = failures(report)
    assert failed.where == f"{tmp_path}/zoo/B/{RESULT}"
    assert "its rows cannot be stored, and none of them is: unexpected" in failed.what
    with lh.open(tmp_path / "w") as wh:
        assert wh.sql("SELECT model_id FROM performance ORDER BY model_id").rows() == [("zoo/A",), ("zoo/C",)]
    monkeypatch.undo()
    assert lines(ingest_files(tmp_path / "zoo", into=tmp_path / "w")) == [
        "unchanged zoo/A: nothing new",
        "taken zoo/B: 1 result file",
        "unchanged zoo/C: nothing new",
    ]


def test_an_error_of_a_callback_is_no_fault_of_an_input(zoo, tmp_path):
    def on_progress(progress):
        if progress.bytes:
            raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        lh.ingest(zoo, warehouse=tmp_path / "w", on_progress=on_progress)
    with pytest.raises(LookupError, match="event"):
        lh.ingest(zoo, warehouse=tmp_path / "w", on_event=lambda event: (_ for _ in ()).throw(LookupError("event")))


# Real inputs, real processes


FORMAT = """
from layerhouse.ingest.results.parsed import ResultFormat
from layerhouse.errors import UsageError

def recognises(document, path):
    return isinstance(document, str) and document.startswith("scores")

def parse(document, path):
    if "deep" in document:
        return parse(document, path)
    raise {error}

FORMAT = ResultFormat("broken", recognises, parse)
"""


@pytest.mark.parametrize("error", ["UsageError('stop')", "MemoryError", "KeyError(path)", "SystemExit(0)"])
def test_a_broken_plugin_costs_the_files_that_only_it_can_read(tmp_path, error):
    install_package(
        tmp_path / "site",
        "broken",
        FORMAT.format(error=error),
        {"layerhouse.result_formats": {"broken": "broken:FORMAT"}},
    )
    for name, text in {"A": "scores", "B": "scores deep", "C": "model,piqa/acc\norg/other,0.25\n"}.items():
        put(tmp_path / "out" / name / "a.txt", text) if name != "C" else put(tmp_path / "out/C/a.csv", text)
    done = layerhouse("ingest", "out", cwd=tmp_path, PYTHONPATH=f"{CLEAN.get('PYTHONPATH', '')}:{tmp_path / 'site'}")
    assert done.returncode == 1
    failed = [line for line in done.stderr.splitlines() if line.startswith("FAILED")]
    assert [line.split(":")[0].split()[-1] for line in failed] == ["out/A/a.txt", "out/B/a.txt"]
    assert "RecursionError" in failed[1]
    assert "1 taken, 2 failed" in done.stderr


CONTAINER = """
from layerhouse.ingest.checkpoint.containers.registry import Container

class Odd(Exception):
    pass

def read(path, display_path):
    raise Odd("\\x1b[31mred")

CONTAINER = Container("odd", lambda file: True, read)
"""


def test_debug_prints_the_traceback_and_no_escape_sequence(tmp_path):
    """A container that fails is a line; a fault of ours, here a result format that is replaced, has its traceback."""
    install_package(tmp_path / "site", "odd", CONTAINER, {"layerhouse.containers": {"odd": "odd:CONTAINER"}})
    put(tmp_path / "out/A/model.bin", b"ODD!" * 100)
    put(tmp_path / "out/B" / RESULT, result())
    patch = (
        "import sys\nfrom layerhouse.ingest import take_results\n"
        "def broken(*args, **kwargs):\n    raise LookupError('\\x1b[31mred\\nsecond line')\n"
        "take_results.measure_id = broken\nfrom layerhouse.cli import main\nmain()"
    )
    environment = {**CLEAN, "PYTHONPATH": f"{CLEAN.get('PYTHONPATH', '')}:{tmp_path / 'site'}"}
    for flags, is_shown in (([], False), (["--debug"], True)):
        done = subprocess.run(
            [sys.executable, "-c", patch, "ingest", "out", "-w", "w", *flags],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert "\x1b" not in done.stderr
        failed = [line for line in done.stderr.splitlines() if line.startswith("FAILED")]
        assert failed == [
            "FAILED      out/A/model.bin: container 'odd' of another package failed: Odd: \\x1b[31mred",
            f"FAILED      out/B/{RESULT}: unexpected LookupError: \\x1b[31mred second line; please report this, "
            "with the traceback that --debug prints",
        ]
        assert ("Traceback (most recent call last)" in done.stderr) == is_shown
        assert ("in broken" in done.stderr) == is_shown


def test_python_prints_the_traceback_on_request(zoo, tmp_path, monkeypatch, capsys):
    fail_once(monkeypatch, take_weights, "open_weights", KeyError("lost"), is_at_fault=lambda text: "zoo/B" in text)
    assert lh.ingest(zoo, warehouse=tmp_path / "w").count("failed") == 1
    assert capsys.readouterr().err == ""
    assert lh.ingest(zoo, warehouse=tmp_path / "w", debug=True).count("failed") == 1
    assert capsys.readouterr().err.splitlines()[-1] == "KeyError: 'lost'"


def test_deep_and_odd_files_beside_good_ones_are_one_line_each(tmp_path):
    deep = "[" * 200_000 + "]" * 200_000
    files = {
        "deep/evaluation/evaluation_results.json": deep,
        "deep analysis/analysis/pruned_model_analysis.json": deep,
        "long name/model.safetensors.index.json": json.dumps({"weight_map": {"w": "x" * 300 + ".safetensors"}}),
        "digits/evaluation/evaluation_results.json": '{"metrics": {"ppl": {"wikitext2": ' + "9" * 401 + "}}}",
        "good/evaluation/evaluation_results.json": json.dumps(result()),
    }
    for name, text in files.items():
        put(tmp_path / "out" / name, text)
    put_model(tmp_path / "out/long name/sub", 1)
    (tmp_path / "out/long name/sub/model.safetensors").rename(tmp_path / "out/long name/x.safetensors")
    (tmp_path / "out/long name/sub").rmdir()
    done = layerhouse("ingest", "out", cwd=tmp_path)
    assert "Traceback" not in done.stderr
    assert done.returncode == 1
    assert "taken       out/good: 1 result file" in done.stderr
    for name in ("out/deep/", "out/deep analysis/", "out/long name/"):
        assert len([line for line in done.stderr.splitlines() if line.startswith(f"FAILED      {name}")]) == 1, name


MEMORY = """
import resource, sys
import numpy, pyarrow
import layerhouse.cli, layerhouse.ingest.run
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + (96 << 20),) * 2)
layerhouse.cli.main()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the size of a process is read from /proc")
def test_too_little_memory_for_one_file_costs_that_file_alone(tmp_path):
    """A result of over a million lists, within all limits, in a process that may take 96 MiB more than it has."""
    put(tmp_path / "out/A" / RESULT, '{"metrics": {"x": [' + "[1,2]," * 1_400_000 + "[]]}}")
    put(tmp_path / "out/B" / RESULT, result())
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, "ingest", "out", "-w", "w", "--threads", "1"],
        cwd=tmp_path,
        env=CLEAN,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stderr.splitlines()
    assert lines[0].startswith(f"FAILED      out/A/{RESULT}: too little memory to read it (MemoryError); free some"), (
        done.stderr
    )
    assert lines[1] == "taken       out/B: 1 result file"
    assert (lines[2], done.returncode) == ("1 taken, 1 failed; warehouse w", 1)
