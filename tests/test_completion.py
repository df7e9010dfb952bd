"""Completion in a shell, through bash where there is one, and that it is quick, quiet and safe."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import layerhouse as lh
from layerhouse import demo
from layerhouse.cli import cli
from layerhouse.tests import study_builder
from layerhouse.tests.running import CLEAN
from layerhouse.warehouse.admin.removals import drop_model, rename_model
from layerhouse.warehouse.answers.naming.condition import select_columns
from layerhouse.warehouse.answers.query import MODEL_NAMES, query_names, query_text
from layerhouse.warehouse.answers.session import connect

BASH = shutil.which("bash")
UNSAFE = ("results/$(touch pwned)", "results/two words", "results/a;b", "results/quo'te", "results/star*", "results/\x1b[31m")
SCRIPT = """
eval "$(layerhouse completion bash)"
line() {
    COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
    _layerhouse_completion layerhouse "${COMP_WORDS[COMP_CWORD]}"
    printf '%s\\n' "${COMPREPLY[*]}"
}
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("completion")
    study_builder.write_study(folder)
    for name in (*UNSAFE, "results/only_scores"):
        demo.write_json(folder / name / "evaluation/evaluation_results.json", {"metrics": {"zeroshot": {"boolq": 0.5}}})
    lh.ingest([folder / "baselines", folder / "results"], warehouse=folder / "layerhouse-data")
    drop_model(folder / "layerhouse-data", "EmptyBlocks_1")
    rename_model(folder / "layerhouse-data", "ShortGPT_remove_3", "other/Short")
    command = folder / "bin" / "layerhouse"
    command.parent.mkdir()
    command.write_text(f"#!{sys.executable}\nfrom layerhouse.cli import program\nprogram()\n", "utf-8")
    command.chmod(0o755)
    return folder


def completed(study: Path, *lines: str, **environment: str) -> list[str]:
    """What bash completes the last word of each line to; all lines in one shell, and not a word on stderr."""
    assert BASH is not None
    script = SCRIPT + "\n".join(f"line layerhouse {line}" for line in lines)
    path = os.pathsep.join((str(study / "bin"), os.environ["PATH"]))
    done = subprocess.run(
        [BASH, "--norc", "-c", script],
        cwd=study,
        env={**CLEAN, "PATH": path, **environment},
        capture_output=True,
        encoding="utf-8",
        timeout=600,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.mark.skipif(BASH is None, reason="no bash on PATH")
def test_bash_completes_commands_options_and_names(study):
    expected = {
        "summ": "summarize",
        "layers --pic": "--picture",
        "layers results/H": "results/HeadPrune_2000",
        "layers Head": "HeadPrune_2000",
        "layers Uni": "Uniform_2000",
        "summarize -m base": "baselines/Tiny-Base baselines/Uniform_2000",
        "compare results/HeadPrune_2000 oth": "other/Short",
        "drop Empty": "",
        "diff layerhouse-data layerhouse-data Tiny": "Tiny-Base",
        "diff layerhouse-data layerhouse-data -m Tiny": "Tiny-Base",
        "query summ": "summary",
        "query summary Head": "HeadPrune_2000",
        "tables layer_p": "layer_pruning",
        "summarize -f js": "json",
        "layers --columns num_k": "num_kv_heads",
        "layers --columns num_kv_heads,leve": "num_kv_heads,level",
        "summarize --columns sparsity,sparsi": "",
        "query trade_off --sort domin": "dominated_by",
        "performance --group stra": "strategy",
        "performance --where piq": "piqa",
        "summarize --by by": "bytes",
        "completion f": "fish",
        "layers -w nowhere H": "",
        "query nothing --columns spars": "",
    }
    assert dict(zip(expected, completed(study, *expected), strict=True)) == expected


@pytest.mark.skipif(BASH is None, reason="no bash on PATH")
def test_a_name_that_a_shell_would_read_otherwise_is_never_completed(study):
    (line,) = completed(study, "layers ''")
    assert line.split(" ") == [
        "baselines/Tiny-Base",
        "baselines/Uniform_2000",
        "other/Short",
        "results/HeadPrune_2000",
        "results/only_scores",
    ]
    assert not (study / "pwned").exists()


@pytest.mark.skipif(BASH is None, reason="no bash on PATH")
def test_a_warehouse_that_cannot_be_read_completes_nothing_and_says_nothing(study, tmp_path):
    broken = shutil.copytree(study / "layerhouse-data", tmp_path / "broken")
    for file in (broken / "commits").iterdir():
        file.write_text("{", "utf-8")
    assert completed(study, "layers H", LAYERHOUSE_WAREHOUSE=str(broken)) == [""]
    assert completed(study, "layers H", LAYERHOUSE_WAREHOUSE="s3://bucket/x") == [""]


def test_the_scripts_name_the_command_and_no_other_shell_has_one(monkeypatch):
    for shell in ("bash", "zsh", "fish"):
        done = CliRunner().invoke(cli, ["completion", shell], catch_exceptions=False)
        assert f"_LAYERHOUSE_COMPLETE={shell}_complete" in done.stdout
        assert "python" not in done.stdout
    with pytest.raises(click.BadParameter, match="'tcsh' is not one of 'bash', 'zsh', 'fish'"):
        CliRunner().invoke(cli, ["completion", "tcsh"], catch_exceptions=False, standalone_mode=False)


def test_names_by_few_views_are_those_of_the_view_models(study):
    sql = "SELECT model_id FROM models ORDER BY model_id"
    connection, _ = connect(study / "layerhouse-data", asked=f"{MODEL_NAMES}\n{sql}")
    with connection:
        names = connection.execute(MODEL_NAMES).fetchall()
        assert connection.execute(sql).fetchall() == names
    assert len(names) == 11


def test_the_columns_of_a_query_are_known_without_running_it(study):
    connection, _ = connect(study / "layerhouse-data")
    with connection:
        for name in query_names():
            described = [row[0] for row in connection.execute(f"DESCRIBE {query_text(name)}").fetchall()]
            assert select_columns(query_text(name)) == described, name
    assert select_columns("SELECT * FROM x") == []
    assert select_columns("no SQL") == []


def test_completing_a_model_loads_no_more_than_duckdb(study):
    code = (
        "import sys; from layerhouse.cli import program, main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(*[name for name in ('torch', 'polars', 'pyarrow', 'numpy', 'rich') if name in sys.modules], file=sys.stderr)"
    )
    words = {"COMP_WORDS": "layerhouse layers Head", "COMP_CWORD": "2", "_LAYERHOUSE_COMPLETE": "bash_complete"}
    start = f"import sys; sys.argv = ['layerhouse']\n{code}"
    done = subprocess.run(
        [sys.executable, "-c", start], cwd=study, env={**CLEAN, **words}, capture_output=True, encoding="utf-8", check=True
    )
    assert (done.stdout, done.stderr) == ("plain,HeadPrune_2000\n", "\n")
