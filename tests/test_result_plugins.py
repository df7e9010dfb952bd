"""Result formats that an installed package adds, in the real command; and packages that are broken."""

from __future__ import annotations

import json
import sys

import pytest

from layerhouse import plugins
from layerhouse.errors import InputError, UsageError
from layerhouse.ingest.results.registry import FORMATS, GROUP, recognise
from layerhouse.tests.plugin_packages import install_package
from layerhouse.tests.running import layerhouse

PACKAGE = '''
"""Scores as `name=score`, a line each, after the line `myscores MODEL`."""

from layerhouse.ingest.checkpoint.notes import note
from layerhouse.ingest.results.parsed import ResultFormat, parsed_results
from layerhouse.ingest.results.rows import left_out_line, measure_task


def recognises(document, path):
    return isinstance(document, str) and document.startswith("myscores ")


def parse(document, path):
    first, *lines = document.splitlines()
    items = []
    for number, line in enumerate(lines, 2):
        task, equals, score = line.partition("=")
        value = float(score) if equals else "nothing"
        items.append(measure_task(f"line {number}", "acc", value, task=task, suite="zeroshot"))
    return parsed_results(items, {"harness": "myscores", "declared_model": first.split()[1]}, [note("mine", "a note")])


FORMAT = ResultFormat("myscores", recognises, parse)
'''
ENTRY_POINTS = {GROUP: {"myscores": "myscores:FORMAT"}}
SCORES = "myscores org/tiny\npiqa=0.75\nboolq\nmmlu=0.5\n"


def install(tmp_path, source=PACKAGE, **further):
    install_package(tmp_path / "site", "myscores", source, ENTRY_POINTS | further)


def run(tmp_path, *arguments):
    path = ":".join([str(tmp_path / "site"), *(entry for entry in sys.path if entry)])
    return layerhouse(*arguments, "-w", tmp_path / "w", cwd=tmp_path, PYTHONPATH=path)


def put(tmp_path, text=SCORES, name="scores.txt"):
    (tmp_path / "out").mkdir(exist_ok=True)
    (tmp_path / "out" / name).write_text(text)


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder of packages that are installed in this process for this test alone."""
    monkeypatch.syspath_prepend(tmp_path / "site")
    modules = set(sys.modules)
    plugins._load_group.cache_clear()
    yield tmp_path / "site"
    plugins._load_group.cache_clear()
    for name in set(sys.modules) - modules:
        del sys.modules[name]


# In the command


def test_a_file_of_an_added_format_is_rows_of_the_warehouse(tmp_path):
    put(tmp_path)
    put(tmp_path, "model,piqa/acc\norg/other,0.25\n", "table.csv")
    before = run(tmp_path, "ingest", "out/scores.txt")
    assert before.returncode == 1
    assert "not a result of a known form" in before.stderr
    install(tmp_path)
    done = run(tmp_path, "ingest", "out")
    assert (done.returncode, done.stdout) == (0, "")
    assert "out/scores.txt: line 3: must be a number, not 'nothing'" in done.stderr
    sql = "SELECT declared_model, harness, task, metric, value, status, unit, notes FROM results WHERE harness <> 'table'"
    answer = run(tmp_path, "sql", f"{sql} ORDER BY task", "--format", "json")
    common = {"declared_model": "org/tiny", "harness": "myscores", "metric": "acc", "status": "ok", "unit": "fraction"}
    common["notes"] = [{"code": "mine", "text": "a note"}]
    assert json.loads(answer.stdout) == [
        {**common, "task": "mmlu", "value": 0.5},
        {**common, "task": "piqa", "value": 0.75},
    ]
    again = run(tmp_path, "ingest", "out")
    assert again.stderr.splitlines()[-1] == f"1 unchanged; warehouse {tmp_path / 'w'}"
    assert run(tmp_path, "sql", "SELECT count(*) FROM results", "--format", "csv").stdout.split() == ["count_star()", "3"]


def test_a_package_that_cannot_be_loaded_is_one_line(tmp_path):
    install(tmp_path, "raise RuntimeError('out of order')")
    put(tmp_path, "model,piqa/acc\norg/other,0.25\n", "table.csv")
    assert run(tmp_path, "ingest", "out").returncode == 0  # no file that only the package could recognise
    put(tmp_path)
    refused = run(tmp_path, "ingest", "out")
    assert refused.returncode == 1
    line = refused.stderr.splitlines()[0]
    assert line.startswith("FAILED      out/scores.txt: ")
    assert f"entry point myscores = myscores:FORMAT of package myscores (group {GROUP}) cannot be loaded" in line
    assert "RuntimeError: out of order" in line
    assert refused.stderr.splitlines()[1:] == [
        f"unchanged   {tmp_path.name}/out: nothing new",
        f"1 unchanged, 1 failed; warehouse {tmp_path / 'w'}",
    ]


# In a process


def test_a_built_in_format_is_asked_first_and_the_packages_are_not_loaded(site, tmp_path):
    install(tmp_path, "raise RuntimeError('never')")
    document = {"metrics": {"ppl": {}}}
    assert recognise(document, tmp_path / "a.json") in FORMATS
    with pytest.raises(UsageError, match="never"):
        recognise({"other": 1}, tmp_path / "a.json")


@pytest.mark.parametrize("name", ["native", "tables"])
def test_a_name_of_a_built_in_format_is_refused(site, tmp_path, name):
    install(tmp_path, PACKAGE.replace('"myscores", recognises', f'"{name}", recognises'))
    with pytest.raises(UsageError) as caught:
        recognise(SCORES, tmp_path / "a.txt")
    assert f"package myscores (group {GROUP}) has the name {name!r}, which layerhouse itself has" in str(caught.value)


def test_an_entry_point_that_is_no_format_is_refused(site, tmp_path):
    install(tmp_path, PACKAGE + "\nFORMAT = recognises\n")
    with pytest.raises(UsageError, match=r"myscores:FORMAT of package myscores .* is a function, expected a ResultFormat"):
        recognise(SCORES, tmp_path / "a.txt")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (("return isinstance", "return 1 / 0, isinstance"), "failed: ZeroDivisionError: division by zero"),
        (("items = []", "items = {}"), "failed: AttributeError: 'dict' object has no attribute 'append'"),
        (("return parsed_results", "return list, parsed_results"), "gives a tuple, not ParsedResults"),
        (('"harness": "myscores"', '"harness": None'), "gives a row without harness"),
        (('"harness": "myscores"', '"harness": "m", "colour": 1'), "gives a row with the column 'colour'"),
        (('suite="zeroshot"', "suite=5"), "gives a wrong suite: "),
        (('suite="zeroshot"', 'n_shot="five"'), "gives a wrong n_shot: "),
        (("for number, line in", 'items.append({"metric": "m", "status": "good"})\n    for number, line in'), "status 'good'"),
        (("for number, line in", 'items.append({"metric": "m", "status": "ok"})\n    for number, line in'), "the value None"),
    ],
)
def test_what_a_format_does_wrong_is_a_line_about_its_file(site, tmp_path, change, what):
    assert change[0] in PACKAGE
    install(tmp_path, PACKAGE.replace(*change))
    with pytest.raises(InputError) as caught:
        recognise(SCORES, tmp_path / "a.txt").parse(SCORES, tmp_path / "a.txt")
    assert caught.value.what.startswith("result format 'myscores' of another package ")
    assert what in caught.value.what
    assert "\n" not in caught.value.what


def test_an_input_error_of_a_format_is_passed_on(site, tmp_path):
    source = PACKAGE.replace("    items = []", "    raise InputError(str(path), 'line 2 is cut off')")
    install(tmp_path, "from layerhouse.errors import InputError\n" + source)
    with pytest.raises(InputError) as caught:
        recognise(SCORES, tmp_path / "a.txt").parse(SCORES, tmp_path / "a.txt")
    assert caught.value.what == "line 2 is cut off"
