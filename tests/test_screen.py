"""Tables on a terminal: what fits, what stands below, names, shades, cards and the pager; through a pseudo-terminal."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pyarrow as pa
import pytest
from rich.cells import cell_len

from layerhouse.terminal.screen.device import Screen
from layerhouse.terminal.screen.form import Glance
from layerhouse.terminal.screen.glance import card_text, fits, glance_text
from layerhouse.tests import study_builder
from layerhouse.tests.running import layerhouse, run_on_terminal
from layerhouse.warehouse.render.columns import describe
from layerhouse.warehouse.render.registry import Layout

PUBLISHED = Path(__file__).parents[2] / "shared/data/llama3-8b"
SGR = re.compile(r"\x1b\[[0-9;]*m")
COMMANDS = (
    ["summarize"],
    ["performance", "--tasks", "*", "--stderr"],
    ["layers", "HeadPrune_2000"],
    ["query"],
    ["formats"],
)
PROSE = "a note of several words, which is longer than its column"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study of analyses and results, ingested once; tests only read it."""
    folder = tmp_path_factory.mktemp("study")
    study_builder.write_study(folder)
    assert layerhouse("ingest", "baselines", "results", cwd=folder).returncode == 0
    return folder


def shown(study, *arguments, columns=100, **options):
    code, output = run_on_terminal(arguments, study, columns=columns, **options)
    assert code == 0, output
    return output


def words(text):
    """The words of a text, without the dashes of rules and null values."""
    return {word for word in re.split(r"[\s,;]+", text) if word.strip("-")}


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_no_line_is_wider_than_the_terminal_and_no_word_is_broken(study, arguments):
    outputs = {columns: shown(study, *arguments, columns=columns) for columns in (80, 120, 200)}
    for columns, output in outputs.items():
        assert [line for line in output.splitlines() if cell_len(line) > columns] == []
    if arguments[0] in ("query", "tables", "formats"):
        assert words(outputs[80]) == words(outputs[120]) == words(outputs[200])


def test_what_is_left_out_is_named_and_wide_shows_it(study):
    output = shown(study, "summarize", columns=80)
    named = re.search(r"more with --wide: ((?:.|\n)*)\Z", output)
    assert named is not None
    titles = {title.strip() for title in " ".join(named[1].split()).split(",")}
    assert {"method", "retention std", "base rule"} <= titles
    rows = csv.reader(io.StringIO(layerhouse("summarize", "-f", "csv", cwd=study).stdout))
    headings = {describe(name, pa.float64()).title for name in next(rows)}
    assert titles <= {*headings, "size GiB", "compact size GiB"}
    for option in ("--wide", "--columns=all"):
        everything = shown(study, "summarize", option, columns=80)
        assert "more with" not in everything
        assert "results/HeadPrune_2000" in everything
        assert {"declared", "params", "retention", "strategy"} <= words(everything)


def test_a_pipe_gets_all_columns_and_full_names(study):
    piped = layerhouse("summarize", cwd=study).stdout
    assert piped == layerhouse("summarize", "--columns", "all", "--wide", "--no-pager", cwd=study).stdout
    assert "results/HeadPrune_2000" in piped
    assert "more with" not in piped
    assert layerhouse("summarize", "--columns", "all", "-f", "csv", cwd=study).stdout.count(",") > 30


def test_names_on_a_terminal_are_endings_that_commands_take(study):
    output = shown(study, "summarize")
    names = [line.split()[0] for line in output.split("\n---")[1].splitlines()[1:] if line and line[0] not in "[ ("]
    names = [name for name in names if name not in ("in", "not", "more")]
    full = layerhouse("sql", "SELECT model_id FROM models ORDER BY model_id", "-f", "csv", cwd=study).stdout.split()[1:]
    assert len(names) == len(full)
    for name, model in zip(names, full, strict=True):
        assert model.endswith(name)
        answer = layerhouse("summarize", name, "--columns", "model", "-f", "csv", cwd=study)
        assert answer.stdout.split()[1:] == [model]


def test_one_model_is_a_picture_unless_a_table_is_asked_for(study):
    assert "█" in shown(study, "layers", "HeadPrune_2000")
    for option in ("--wide", "--columns=layer,reduction", "--where=layer_index > 2"):
        output = shown(study, "layers", "HeadPrune_2000", option)
        assert "█" not in output
        assert "---" in output


def test_chosen_columns_are_all_shown(study):
    names = "model,params,base_params,retention_mean,retention_std,retention_var,strategy,size_gb,base_model"
    output = shown(study, "summarize", "--columns", names, columns=60)
    assert "more with" not in output
    assert {"params", "strategy", "retention"} <= words(output)


def test_one_model_is_a_card_and_vertical_makes_cards_of_all(study):
    card = shown(study, "summarize", "HeadPrune_2000")
    assert re.search(r"^model +HeadPrune_2000$", card, re.MULTILINE)
    assert re.search(r"^params +[\d,]+$", card, re.MULTILINE)
    assert "not known: " in card
    cards = shown(study, "summarize", "--vertical", columns=200)
    assert len(re.findall(r"^model  ", cards, re.MULTILINE)) == 5
    assert "---" not in cards
    assert "---" in shown(study, "summarize", "HeadPrune_2000", "--columns", "model,params")


def test_colours_are_for_terminals_that_have_them(study):
    plain = shown(study, "summarize")
    assert "\x1b" not in plain
    assert "\x1b" not in shown(study, "summarize", NO_COLOR="", TERM="dumb")
    colored = shown(study, "summarize", NO_COLOR="")
    assert SGR.sub("", colored) == plain
    assert "\x1b[1m" in colored
    assert re.search(r"\x1b\[38;5;16;48;5;\d+m +\d+\.\d\d\x1b\[0m", colored)
    assert "\x1b" not in layerhouse("summarize", cwd=study, NO_COLOR="").stdout


def test_long_texts_go_through_the_pager(study, tmp_path):
    pager = tmp_path / "pager"
    pager.write_text(f'#!/bin/sh\ncat > "{tmp_path}/paged"\necho paged "$LESS"\n')
    pager.chmod(0o755)
    whole = shown(study, "layers")
    assert shown(study, "layers", PAGER=str(pager)) == "paged FRX\n"
    assert (tmp_path / "paged").read_text() == whole
    assert shown(study, "layers", PAGER=str(pager), rows=10_000) == whole
    assert shown(study, "layers", "--no-pager", PAGER=str(pager)) == whole
    assert shown(study, "layers", PAGER=str(pager), is_stdin=False) == whole
    assert shown(study, "layers", PAGER="no-such-program") == whole
    assert shown(study, "layers", PAGER="") == whole
    pager.write_text("#!/bin/sh\nexit 0\n")
    assert shown(study, "layers", PAGER=str(pager)) == ""


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published study is not part of the repository")
def test_the_published_study_fits_a_screen(tmp_path):
    warehouse = tmp_path / "w"
    assert layerhouse("ingest", "baselines", "results", "-w", warehouse, cwd=PUBLISHED).returncode == 0
    for arguments in (["summarize"], ["performance"], ["layers", "results/HGSP_2000"]):
        output = shown(PUBLISHED, *arguments, "-w", warehouse, rows=40)
        assert len(output.splitlines()) < 40
        assert max(map(cell_len, output.splitlines())) <= 100
    assert "HGSP_2000" in output
    assert "█" in output
    assert "every layer: stack text, layer as in the base, match positional" in output


def table():
    return pa.table(
        {
            "model_id": ["results/a", "results/b", "base"],
            "strategy": ["uniform", "uniform", "uniform"],
            "reduction_ratio": [0.25, 0.999, None],
            "status_note": [PROSE, PROSE, None],
            "sparsity": pa.array([None, None, None], pa.float64()),
            "base_model": ["base", "base", None],
            "run_note": ["another note, longer than its column", None, None],
        }
    )


def test_notes_are_numbered_and_equal_ones_share_a_number():
    text = glance_text(table(), Layout(), Screen(60, 24), Glance("summary", {"results/a": "a", "results/b": "b"}))
    assert text.splitlines() == [
        "                                run",
        "model  reduction %  note  base  note",
        "-----  -----------  ----  ----  ----",
        "a            25.00  [1]   base  [2]",
        "b            99.90  [1]   base  -",
        "base             -  -     -     -",
        f"[1] {PROSE}",
        "[2] another note, longer than its column",
        "in every row: strategy uniform",
        "not known for any row: sparsity",
    ]
    narrow = glance_text(table(), Layout(), Screen(30, 24), Glance("summary"))
    assert narrow.splitlines()[:3] == [
        "model      reduction %  note",
        "---------  -----------  ----",
        "results/a        25.00  [1]",
    ]
    assert "more with --wide: base, run" in narrow
    assert "[2]" not in narrow


def test_values_that_look_alike_when_rounded_are_not_said_to_be_one():
    sizes = pa.table({"model_id": ["a", "b"], "size_gb": [0.0033, 0.0034], "params": [5, 5]})
    text = glance_text(sizes, Layout(), Screen(60, 24), Glance())
    assert "in every row: params 5\n" in text
    assert text.count("0.003") == 2


def test_headings_break_between_words_and_a_unit_stays_by_its_word():
    wide = pa.table({"model_id": ["m"] * 2, "attention_reduction_ratio": [0.5, 0.25], "kv_cache_bytes_per_token": [1, 2]})
    text = glance_text(wide, Layout(), Screen(60, 24), Glance())
    assert text.splitlines()[:4] == [
        "         attention   KV cache",
        "model  reduction %  bytes/tok",
        "-----  -----------  ---------",
        "m            50.00          1",
    ]


def test_a_table_without_rows_says_so_and_one_that_fits_is_no_card():
    empty = table().slice(0, 0)
    assert "(no rows)" in glance_text(empty, Layout(), Screen(60, 24), Glance())
    assert "(no rows)" in card_text(empty, Layout(), Screen(60, 24), Glance())
    assert fits(table().slice(2), Layout(), Screen(60, 24), Glance())
    assert not fits(table(), Layout(), Screen(30, 24), Glance())


def test_prose_in_the_last_column_is_wrapped():
    listed = pa.table({"name": ["a", "b"], "description": [PROSE, "short"]})
    text = glance_text(listed, Layout(), Screen(40, 24), Glance(is_list=True))
    lines = text.splitlines()
    assert max(map(len, lines)) <= 40
    assert lines[2].startswith("a     a note of several words")
    assert lines[3].startswith("      ")
    assert " ".join(" ".join(lines[2:-1]).split()) == f"a {PROSE}"
    assert lines[-1] == "b     short"


def test_wide_letters_count_as_two_cells():
    named = pa.table({"model_id": ["模型一", "b"], "status_note": ["剪枝 " * 30, None]})
    for line in glance_text(named, Layout(), Screen(40, 24), Glance()).splitlines():
        assert cell_len(line) <= 40
