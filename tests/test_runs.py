"""Results of one model from several runs: variants, conflicts, doubtful values, and rows of earlier rules."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

import layerhouse as lh
from layerhouse.ingest import take_results
from layerhouse.ingest.results.runs import run_columns, split_arguments
from layerhouse.tests.running import layerhouse
from layerhouse.version import RESULT_RULES_VERSION

DATE = 1_700_000_000


def lm_eval_file(path: Path, score: float | None, arguments: str = "", *, date: float = DATE, **more: Any) -> None:
    """A file of lm-eval with one score of BoolQ."""
    config = {"model": "hf", "model_args": f"pretrained=org/m{arguments and ','}{arguments}", **more.pop("config", {})}
    document = {
        "results": {"boolq": {"acc,none": score, "acc_stderr,none": 0.01}},
        "configs": {"boolq": {"num_fewshot": 0}},
        "n-shot": {"boolq": 0},
        "config": config,
        "date": date,
        **more,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


def taken(root: Path, warehouse: Path) -> list[str]:
    """Ingest, and return the lines."""
    lines: list[str] = []
    lh.ingest([root], warehouse=warehouse, on_event=lambda event: lines.append(str(event)))
    return lines


def rows(warehouse: Path, sql: str) -> list[Any]:
    with lh.open(warehouse) as wh:
        return wh.connection_for(sql).sql(sql).fetchall()


VARIANTS = {
    "revision=step3000": "revision=step3000",
    "load_in_4bit=True": "load_in_4bit",
    "gguf_file=a.Q8_0.gguf": "gguf_file=a.Q8_0.gguf",
    "peft=org/adapter": "adapter=org/adapter",
    "dtype=float16": "dtype=float16",
    "subfolder=last": "subfolder=last",
    "add_bos_token=True": "add_bos_token",
}


def test_every_variant_is_a_row_of_its_own_and_the_plain_run_alone_is_the_model(tmp_path):
    for number, arguments in enumerate(("", *VARIANTS)):
        lm_eval_file(tmp_path / f"in/{number}/results.json", number / 10, arguments, date=DATE + number)
    taken(tmp_path / "in", tmp_path / "w")
    shown = "SELECT model_id, variant, boolq FROM performance"
    assert rows(tmp_path / "w", shown) == [("org/m", None, 0.0)]
    wanted = [("org/m", variant, number / 10) for number, variant in enumerate(VARIANTS.values(), 1)]
    every = rows(tmp_path / "w", "SELECT model_id, variant, boolq FROM performance_variants WHERE variant IS NOT NULL")
    assert sorted(every) == sorted(wanted)
    assert rows(tmp_path / "w", "SELECT variant, value FROM measures") == [(None, 0.0)]
    with lh.open(tmp_path / "w") as wh:
        assert wh.results()["value"].to_list() == [0.0]


def test_what_other_runs_have_beside_the_plain_one_is_said_under_the_table(tmp_path):
    lm_eval_file(tmp_path / "in/a/results.json", 0.25)
    lm_eval_file(tmp_path / "in/b/results.json", 0.5, "dtype=float16")
    taken(tmp_path / "in", tmp_path / "w")
    line = "1 model has values of other runs, which stand apart; see: layerhouse performance --variants"
    assert line in layerhouse("performance", "-w", tmp_path / "w").stderr
    assert line not in layerhouse("performance", "--variants", "-w", tmp_path / "w").stderr


def test_a_model_that_has_variants_alone_is_there_by_them(tmp_path):
    lm_eval_file(tmp_path / "in/a/results.json", 0.25, "revision=step3000")
    lm_eval_file(tmp_path / "in/b/results.json", 0.5, "revision=step143000")
    taken(tmp_path / "in", tmp_path / "w")
    shown = rows(tmp_path / "w", "SELECT variant, boolq FROM performance ORDER BY boolq")
    assert shown == [("revision=step3000", 0.25), ("revision=step143000", 0.5)]


@pytest.mark.parametrize(
    "first, second",
    [({"model_sha": "a" * 40}, {"model_sha": "b" * 40}), ({"model_dtype": "torch.float16"}, {"model_dtype": "torch.bfloat16"})],
)
def test_what_was_found_while_loading_tells_runs_apart_only_where_it_differs(tmp_path, first, second):
    lm_eval_file(tmp_path / "in/a/results.json", 0.25, config=first)
    taken(tmp_path / "in", tmp_path / "w")
    assert rows(tmp_path / "w", "SELECT variant, boolq FROM performance") == [(None, 0.25)]
    lm_eval_file(tmp_path / "in/b/results.json", 0.5, config=second, date=DATE + 1)
    taken(tmp_path / "in", tmp_path / "w")
    shown = rows(tmp_path / "w", "SELECT variant IS NULL, boolq FROM performance ORDER BY boolq")
    assert shown == [(False, 0.25), (False, 0.5)]


def test_two_values_of_one_time_are_a_conflict_and_both_are_listed(tmp_path):
    lm_eval_file(tmp_path / "in/a/results.json", 0.25)
    lm_eval_file(tmp_path / "in/b/results.json", 0.5)
    taken(tmp_path / "in", tmp_path / "w")
    assert rows(tmp_path / "w", "SELECT boolq, num_conflicts FROM performance") == [(None, 1)]
    assert rows(tmp_path / "w", "SELECT value, status FROM model_results") == [(None, "conflict")]
    with lh.open(tmp_path / "w") as wh:
        listed = wh.query("conflicts")
    assert listed["value"].to_list() == [0.25, 0.5]
    assert [os.path.relpath(uri, tmp_path / "in") for uri in listed["source_uri"]] == ["a/results.json", "b/results.json"]
    lm_eval_file(tmp_path / "in/c/results.json", 0.75, date=DATE + 1)
    taken(tmp_path / "in", tmp_path / "w")
    assert rows(tmp_path / "w", "SELECT boolq, num_conflicts FROM performance") == [(0.75, 0)]


def test_two_values_in_one_file_are_said_at_once(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/scores.csv").write_text(
        "model,task,metric,value\norg/m,copa,acc,0.5\norg/m,copa,acc,0.25\norg/m,rte,acc,0.5\n"
    )
    lines = taken(tmp_path / "in", tmp_path / "w")
    assert [line for line in lines if "several values" in line and "copa/acc" in line and "query conflicts" in line]
    assert rows(tmp_path / "w", "SELECT measure, value FROM measures") == [("rte/acc", 0.5)]


def test_percent_beside_fractions_is_said_and_in_no_column(tmp_path):
    (tmp_path / "in").mkdir()
    table = "model,task,metric,value,n_shot\norg/a,piqa,acc_norm,78.9,0\norg/b,piqa,acc_norm,0.789,0\n"
    (tmp_path / "in/scores.csv").write_text(table)
    lines = taken(tmp_path / "in", tmp_path / "w")
    assert [line for line in lines if "piqa/acc_norm 78.9" in line and "query doubtful" in line]
    shown = rows(tmp_path / "w", "SELECT model_id, piqa, num_doubtful FROM performance ORDER BY 1")
    assert shown == [("org/a", None, 1), ("org/b", 0.789, 0)]
    with lh.open(tmp_path / "w") as wh:
        assert wh.query("doubtful")["value"].to_list() == [78.9]


def test_an_unknown_metric_is_judged_by_the_values_of_the_others(tmp_path):
    (tmp_path / "in").mkdir()
    values = {"a": 0.5, "b": 0.25, "c": 54.0}
    table = "".join(f"org/{name},x,my_score,{value}\n" for name, value in values.items())
    (tmp_path / "in/scores.csv").write_text(f"model,task,metric,value\n{table}")
    taken(tmp_path / "in", tmp_path / "w")
    assert rows(tmp_path / "w", "SELECT model_id, value FROM measures ORDER BY 1") == [("org/a", 0.5), ("org/b", 0.25)]


def test_every_score_that_has_no_column_is_among_the_others(tmp_path):
    (tmp_path / "in").mkdir()
    table = "org/m,hellaswag,acc_norm,0.5,0\norg/m,hellaswag,f1,0.25,0\norg/m,wikitext,word_perplexity,12.5,0\n"
    (tmp_path / "in/scores.csv").write_text(f"model,task,metric,value,n_shot\n{table}")
    taken(tmp_path / "in", tmp_path / "w")
    ((hellaswag, others),) = rows(tmp_path / "w", "SELECT hellaswag, other_scores FROM performance")
    assert hellaswag == 0.5
    assert others == {"hellaswag/f1": 0.25, "wikitext/word_perplexity": 12.5}


def test_shots_that_are_not_stated_are_not_0_shots(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/scores.csv").write_text("model,task,metric,value,n_shot\norg/a,boolq,acc,0.5,0\norg/b,boolq,acc,0.25,\n")
    taken(tmp_path / "in", tmp_path / "w")
    shown = rows(tmp_path / "w", "SELECT model_id, boolq FROM performance ORDER BY 1")
    assert shown == [("org/a", 0.5), ("org/b", None)]
    assert rows(tmp_path / "w", "SELECT measure, value FROM measures WHERE kind = 'score'") == [("boolq/acc@?shot", 0.25)]


def test_the_only_stated_context_fills_the_column_of_a_perplexity(tmp_path):
    (tmp_path / "in").mkdir()
    table = "model,task,metric,value,seq_len\norg/a,wikitext2,perplexity,7.5,2048\norg/b,wikitext2,perplexity,8.5,2048\n"
    (tmp_path / "in/scores.csv").write_text(table)
    taken(tmp_path / "in", tmp_path / "w")
    shown = "SELECT model_id, ppl_wikitext2 FROM performance ORDER BY 1"
    assert rows(tmp_path / "w", shown) == [("org/a", 7.5), ("org/b", 8.5)]
    conditions = "SELECT column_name, condition, num_models FROM column_conditions"
    assert rows(tmp_path / "w", conditions) == [("ppl_wikitext2", "context 2048", 2)]
    (tmp_path / "in/more.csv").write_text("model,task,metric,value,seq_len\norg/c,wikitext2,perplexity,9.5,4096\n")
    taken(tmp_path / "in", tmp_path / "w")
    assert [value for _, value in rows(tmp_path / "w", shown)] == [None, None, None]


def test_results_of_earlier_rules_are_stale_until_their_file_is_met_again(tmp_path, monkeypatch):
    lm_eval_file(tmp_path / "in/a/results.json", 0.25, "revision=step3000")
    lm_eval_file(tmp_path / "in/b/results.json", 0.5)
    with monkeypatch.context() as patched:
        patched.setattr(take_results, "RESULT_RULES_VERSION", None)
        patched.setattr(take_results, "run_id", lambda row: row.update(variant=None))
        taken(tmp_path / "in", tmp_path / "w")
    stale = "SELECT status_note LIKE '%stale results%' FROM models"
    assert rows(tmp_path / "w", stale) == [(True,)]
    assert rows(tmp_path / "w", "SELECT variant, boolq FROM performance_variants ORDER BY boolq") == [
        ("revision=step3000", 0.25),
        (None, 0.5),
    ]
    (tmp_path / "in/b/results.json").unlink()
    taken(tmp_path / "in", tmp_path / "w")
    assert rows(tmp_path / "w", stale) == [(True,)]
    versions = "SELECT DISTINCT rules_version FROM results ORDER BY 1 NULLS FIRST"
    assert rows(tmp_path / "w", versions) == [(None,), (RESULT_RULES_VERSION,)]
    lm_eval_file(tmp_path / "in/b/results.json", 0.5)
    taken(tmp_path / "in", tmp_path / "w")
    assert rows(tmp_path / "w", stale) == [(False,)]
    assert rows(tmp_path / "w", "SELECT count(*), count(DISTINCT result_id) FROM results") == [(2, 2)]
    assert not [line for line in taken(tmp_path / "in", tmp_path / "w") if "TAKEN" in line]


def test_arguments_without_secrets_and_without_what_changes_nothing():
    text = "pretrained=/m,dtype=auto,hf_token=x,api_key=k,device=cuda:0,batch_size=8,load_in_8bit=False,peft="
    columns = run_columns(split_arguments(f"{text},add_bos_token=True"), backend="hf")
    assert columns["variant"] == "add_bos_token"
    assert columns["arguments"].keys() == {
        "pretrained",
        "dtype",
        "device",
        "batch_size",
        "load_in_8bit",
        "add_bos_token",
        "backend",
    }
    assert columns["adapter"] is None
