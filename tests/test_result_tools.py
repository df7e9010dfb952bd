"""Result files of further tools, built with the keys that their writers write: every number is a row or a named line."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

import layerhouse as lh
from layerhouse.ingest.results.documents import may_be_result
from layerhouse.tests.test_result_formats import AWKWARD, counted, lm_eval, parse, table_of

# sglang.bench_serving: the dict `result` of bench_serving.py.
SGLANG = {
    "backend": "sglang",
    "dataset_name": "random",
    "request_rate": float("inf"),
    "max_concurrency": 8,
    "sharegpt_output_len": None,
    "random_input_len": 1024,
    "random_output_len": 128,
    "random_range_ratio": 0.5,
    "duration": 20.0,
    "completed": 100,
    "total_input_tokens": 51200,
    "total_output_tokens": 6400,
    "total_output_tokens_retokenized": 6390,
    "request_throughput": 5.0,
    "input_throughput": 2560.0,
    "output_throughput": 320.0,
    "mean_e2e_latency_ms": 900.5,
    "p99_e2e_latency_ms": 1500.0,
    "mean_ttft_ms": 40.0,
    "std_tpot_ms": 1.5,
    "p95_itl_ms": 12.0,
    "concurrency": 4.5,
    "accept_length": None,
}


def test_runs_of_sglang_are_not_taken_for_those_of_vllm(tmp_path):
    lines = [SGLANG, SGLANG | {"max_concurrency": 16, "accept_length": 2.5, "dataset_name": "sharegpt", "peak": 3}]
    file_results = parse(tmp_path, "sglang_0131_100_random.jsonl", "\n".join(map(json.dumps, lines)))
    assert {row["harness"] for row in file_results.rows} == {"sglang"}
    first = [row for row in file_results.rows if "concurrency=8" in row["subset"]]
    assert {row["metric"]: (row["value"], row["unit"]) for row in first} == {
        "requests_per_sec": (5.0, "req/s"),
        "input_tokens_per_sec": (2560.0, "tok/s"),
        "output_tokens_per_sec": (320.0, "tok/s"),
        "mean_e2el_ms": (900.5, "ms"),
        "p99_e2el_ms": (1500.0, "ms"),
        "mean_ttft_ms": (40.0, "ms"),
        "std_tpot_ms": (1.5, "ms"),
        "p95_itl_ms": (12.0, "ms"),
    }
    subset = "backend=sglang,dataset=random,rate=inf,concurrency=8,input=1024,output=128,range=0.5"
    assert {(row["subset"], row["n_samples"], row["declared_model"]) for row in first} == {(subset, 100, None)}
    second = [row for row in file_results.rows if row not in first]
    assert {row["subset"] for row in second} == {"backend=sglang,dataset=sharegpt,rate=inf,concurrency=16,input=512,output=64"}
    assert len(second) == len(first) + 1
    assert file_results.left_out == ("[1].peak: not known",)
    table_of(file_results.rows)


def test_of_awkward_values_of_sglang_every_one_is_a_row_or_named(tmp_path):
    base = {"duration": 0, "mean_e2e_latency_ms": 1.0}
    run = base | {f"p{place}_itl_ms": value for place, value in enumerate(AWKWARD)} | {"output_throughput": 1.0}
    file_results = parse(tmp_path, "a.json", run)
    counted(file_results, len(AWKWARD) + 2)
    assert [row["status"] for row in file_results.rows if row["metric"] == "output_tokens_per_sec"] == ["missing"]


# EvalPlus: evalplus/evaluate.py.
def evalplus(**more):
    solutions = {
        "HumanEval/0": [("pass", "pass"), ("pass", "fail")],
        "HumanEval/1": [("fail", "fail"), ("pass", "pass")],
        "HumanEval/2": [("pass", "pass"), ("pass", "pass")],
    }
    problems = {
        task: [
            {"task_id": task, "solution": "def f(): pass", "base_status": base, "plus_status": plus} for base, plus in statuses
        ]
        for task, statuses in solutions.items()
    }
    return {"date": "2026-01-31 12:00", "hash": "ab", "eval": problems, **more}


def test_evalplus_has_the_scores_of_both_sets_of_tests(tmp_path):
    stated = {"base": {"pass@1": 0.8333, "pass@10": 0.9}, "plus": {"pass@1": 0.6667}}
    file_results = parse(tmp_path, "eval_results.json", evalplus(pass_at_k=stated))
    assert [(row["task"], row["metric"], row["value"], row["unit"], row["n_samples"]) for row in file_results.rows] == [
        ("humaneval", "pass@1", 0.8333, "fraction", 3),
        ("humaneval", "pass@10", 0.9, "fraction", 3),
        ("humaneval_plus", "pass@1", 0.6667, "fraction", 3),
    ]
    assert {str(row["run_at"]) for row in file_results.rows} == {"2026-01-31 12:00:00+00:00"}
    table_of(file_results.rows)


def test_an_older_file_of_evalplus_has_its_scores_computed_and_says_so(tmp_path):
    older = evalplus()
    older["eval"] = {
        task: {
            "nfiles": len(solutions),
            "base": [["success" if solution["base_status"] == "pass" else "failed", []] for solution in solutions],
            "plus": [["success" if solution["plus_status"] == "pass" else "failed", []] for solution in solutions],
        }
        for task, solutions in older["eval"].items()
    }
    for document in (evalplus(), older):
        rows = parse(tmp_path, "a_eval_results.json", document).rows
        assert [(row["task"], row["value"]) for row in rows] == [
            ("humaneval", pytest.approx((1 + 0.5 + 1) / 3)),
            ("humaneval_plus", pytest.approx((0.5 + 0.5 + 1) / 3)),
        ]
        assert {row["notes"][0]["code"] for row in rows} == {"computed"}


@pytest.mark.parametrize(
    ("problems", "lines"),
    [
        ({}, ("eval: problems of no data set or of several: HumanEval/0 or Mbpp/2 is expected",)),
        (
            {"HumanEval/0": [], "Mbpp/1": []},
            ("eval: problems of no data set or of several: HumanEval/0 or Mbpp/2 is expected",),
        ),
        *(
            (
                {"Mbpp/0": problem},
                tuple(f"eval.{kind}: not every problem has the statuses of its solutions" for kind in ("base", "plus")),
            )
            for problem in (None, [], {}, [{}], [3], {"base": [[]], "plus": [1]}, {"base": {"a": 1}})
        ),
    ],
)
def test_statuses_of_evalplus_that_are_missing_give_no_score(tmp_path, problems, lines):
    file_results = parse(tmp_path, "eval_results.json", evalplus() | {"eval": problems})
    assert (file_results.rows, file_results.left_out) == ((), lines)


# bigcode-evaluation-harness: main.py.
def test_bigcode_has_its_settings_and_no_keys(tmp_path):
    config = {"model": "bigcode/starcoder", "revision": "main", "temperature": 0.2, "n_samples": 20, "limit": 10}
    config |= {"metric_output_path": "e.json", "use_auth_token": "secret"}
    document = {"humaneval": {"pass@1": 0.335, "pass@10": 0.5}, "conala": {"bleu": 31.2}, "apps": None, "config": config}
    file_results = parse(tmp_path, "evaluation_results.json", document)
    columns = ("declared_model", "task", "metric", "value", "unit", "subset", "sample_limit")
    assert [tuple(row[name] for name in columns) for row in file_results.rows] == [
        ("bigcode/starcoder", "humaneval", "pass@1", 0.335, "fraction", "temperature=0.2,solutions=20", 10.0),
        ("bigcode/starcoder", "humaneval", "pass@10", 0.5, "fraction", "temperature=0.2,solutions=20", 10.0),
        ("bigcode/starcoder", "conala", "bleu", 31.2, None, "temperature=0.2,solutions=20", 10.0),
    ]
    assert file_results.left_out == ("apps: must be an object, not null",)
    assert "secret" not in repr(file_results)
    table_of(file_results.rows)
    awkward = {f"t{place}": {"pass@1": value} for place, value in enumerate(AWKWARD)}
    counted(parse(tmp_path, "a.json", awkward | {"config": {"model": None}}), len(AWKWARD))


# Files that lm-evaluation-harness is behind


def test_results_without_versions_are_read_and_what_is_unknown_is_null(tmp_path):
    rows = parse(tmp_path, "a.json", {"results": {"mmlu": {"acc,none": 0.25, "acc_stderr,none": 0.01}}}).rows
    columns = ("task", "metric", "value", "stderr", "n_shot", "declared_model", "harness_version")
    assert [tuple(row[name] for name in columns) for row in rows] == [("mmlu", "acc", 0.25, 0.01, None, None, None)]
    bare = {"piqa": {"alias": "piqa", "acc,none": 0.75, "acc_stderr,none": "N/A"}}
    assert [(row["task"], row["value"]) for row in parse(tmp_path, "lm_eval_results", bare).rows] == [("piqa", 0.75)]


@pytest.mark.parametrize(
    ("name", "version", "shots"),
    [
        ("eval_mlx-community_Llama-3.2-1B_0.4.8_arc_easy_piqa", "0.4.8", None),
        ("eval_mlx-community_Llama-3.2-1B_0.4.8_05_arc_easy_piqa", "0.4.8", 5),
    ],
)
def test_a_file_of_mlx_lm_is_told_by_its_name(tmp_path, name, version, shots):
    results = {"arc_easy": {"alias": "arc_easy", "acc,none": 0.5, "acc_stderr,none": 0.01}, "piqa": {"acc,none": 0.25}}
    rows = parse(tmp_path, name, results).rows
    assert [(row["task"], row["value"]) for row in rows] == [("arc_easy", 0.5), ("piqa", 0.25)]
    assert {(row["declared_model"], row["harness_version"], row["n_shot"]) for row in rows} == {
        ("mlx-community_Llama-3.2-1B", version, shots)
    }


def test_a_file_of_mlx_lm_is_found_in_a_folder(tmp_path):
    results = {"arc_easy": {"alias": "arc_easy", "acc,none": 0.5, "acc_stderr,none": 0.01}}
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "eval_org_m_0.4.8_arc_easy").write_text(json.dumps(results))
    lh.ingest(folder, warehouse=tmp_path / "w")
    with lh.open(tmp_path / "w") as warehouse:
        assert warehouse.sql("SELECT value FROM results").item() == 0.5


def test_a_loaded_model_is_named_by_its_path_as_litgpt_leaves_it(tmp_path):
    document = lm_eval({"piqa": {"acc,none": 0.5}})
    for config, declared in (
        ({"model": "/data/checkpoints/org/m/evaluate", "model_args": None}, "/data/checkpoints/org/m"),
        ({"model": "hf", "model_args": ""}, None),
        ({"model": "org/x", "model_args": "pretrained=org/m"}, "org/m"),
    ):
        (row,) = parse(tmp_path, "results.json", document | {"config": config}).rows
        assert row["declared_model"] == declared


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("eval_a_0.4.8_piqa", True),
        ("lm_eval_results", True),
        ("results", True),
        ("eval_a_0.4.py", False),
        ("LICENSE", False),
        ("results.py", False),
        ("b.sql", True),
        ("README.md", False),
    ],
)
def test_names_without_a_suffix(name, is_one):
    assert may_be_result(Path(name)) is is_one


# Inspect: the classes EvalLog, EvalSpec, EvalResults, EvalScore and EvalMetric of inspect_ai/log/_log.py.
def inspect_log(scores, **more):
    spec = {"task": "arc_challenge", "model": "hf/org/m", "created": "2026-01-31T12:00:00+00:00", "config": {"limit": 100}}
    spec |= {"dataset": {"name": "allenai/ai2_arc", "samples": 1172}, "packages": {"inspect_ai": "0.3.60"}}
    spec |= {"model_args": {"api_key": "secret"}}
    results = {"total_samples": 100, "completed_samples": 99, "scores": scores}
    return {"version": 2, "status": "success", "eval": spec, "results": results, "samples": [], **more}


def inspect_score(**values):
    metrics = {name: {"name": name, "value": value, "options": {}} for name, value in values.items()}
    return {"name": "choice", "scorer": "choice", "reducer": "mean", "params": {}, "metrics": metrics}


def test_scores_of_inspect_have_their_error_and_no_keys(tmp_path):
    scores = [inspect_score(accuracy=0.5, stderr=0.05), inspect_score(accuracy=0.5, mean=0.4, stderr=0.05, other="x"), 3]
    file_results = parse(tmp_path, "log.json", inspect_log(scores))
    columns = ("task", "metric", "value", "stderr", "filter", "subset", "n_samples", "sample_limit", "harness_version")
    same = ("choice", "mean", 99, 100.0, "0.3.60")
    assert [tuple(row[name] for name in columns) for row in file_results.rows] == [
        ("arc_challenge", "accuracy", 0.5, 0.05, *same),
        ("arc_challenge", "accuracy", 0.5, None, *same),
        ("arc_challenge", "mean", 0.4, None, *same),
        ("arc_challenge", "stderr", 0.05, None, *same),
    ]
    assert file_results.left_out == (
        "results.scores[1].other: must be a number, not 'x'",
        "results.scores[2]: must be an object with metrics, not 3",
    )
    assert {(row["declared_model"], row["dataset"]) for row in file_results.rows} == {("hf/org/m", "allenai/ai2_arc")}
    assert "secret" not in repr(file_results)
    table_of(file_results.rows)


@pytest.mark.parametrize("results", [None, {}, {"scores": None}, {"scores": []}, [], 3])
def test_a_run_of_inspect_without_scores_has_no_row(tmp_path, results):
    document = inspect_log([], status="error") | {"results": results}
    assert parse(tmp_path, "log.json", document).rows == ()


def test_of_awkward_values_of_inspect_every_one_is_a_row_or_named(tmp_path):
    score = inspect_score(**{f"m{place}": value for place, value in enumerate(AWKWARD)})
    counted(parse(tmp_path, "log.json", inspect_log([score])), len(AWKWARD))


def test_a_zipped_log_of_inspect_is_one_line_that_says_what_to_do(tmp_path):
    folder = tmp_path / "logs"
    folder.mkdir()
    with zipfile.ZipFile(folder / "2026_task.eval", "w") as archive:
        archive.writestr("header.json", "{}")
    events = []
    lh.ingest(folder, warehouse=tmp_path / "w", on_event=events.append)
    (event,) = (event for event in events if event.where.endswith(".eval"))
    assert event.what == "a log of Inspect as .eval: not read; write it as JSON with: inspect log dump FILE > log.json"


# simple-evals: simple_evals.py and aggregate_results of common.py.
def test_simple_evals_are_told_by_the_name_of_the_file(tmp_path):
    document = {"chars": 1523.5, "chars:std": 700.25, "score:std": 0.4, "score": 0.82, "tag": "x"}
    file_results = parse(tmp_path, "mmlu_org-m_chat.json", document)
    columns = ("declared_model", "task", "metric", "value", "unit", "stderr")
    assert [tuple(row[name] for name in columns) for row in file_results.rows] == [
        ("org-m_chat", "mmlu", "chars", 1523.5, None, None),
        ("org-m_chat", "mmlu", "score", 0.82, "fraction", None),
    ]
    counted(file_results, len(document))
    table_of(file_results.rows)
    (row,) = parse(tmp_path, "drop_m_DEBUG.json", {"score": 50.5}).rows
    assert (row["task"], row["declared_model"], row["unit"]) == ("drop_debug", "m", None)


# LongBench: eval.py.
def test_scores_of_longbench_stay_percent(tmp_path):
    document = {"hotpotqa": 31.25, "lcc": {"0-4k": 50.0, "4-8k": 40.0, "8k+": None}, "trec": "x"}
    file_results = parse(tmp_path, "result.json", document)
    assert [(row["task"], row["subset"], row["value"], row["unit"]) for row in file_results.rows] == [
        ("longbench_hotpotqa", None, 31.25, "percent"),
        ("longbench_lcc 0-4k", "0-4k", 50.0, "percent"),
        ("longbench_lcc 4-8k", "4-8k", 40.0, "percent"),
        ("longbench_lcc 8k+", "8k+", None, "percent"),
    ]
    assert file_results.left_out == ("trec: must be a number, not 'x'",)
    table_of(file_results.rows)


# LLMPerf: token_benchmark_ray.py.
def test_times_of_llmperf_become_milliseconds(tmp_path):
    times = ("ttft", "inter_token_latency", "end_to_end_latency")
    document = {"model": "org/m", "num_concurrent_requests": 5, "mean_input_tokens": 550, "mean_output_tokens": 150}
    document |= {f"results_{time}_s_{part}": 0.5 for time in times for part in ("mean", "quantiles_p50", "quantiles_p99")}
    document |= {"results_mean_output_throughput_token_per_s": 132.75, "results_num_completed_requests_per_min": 12.0}
    document |= {"results_num_completed_requests": 100, "results_error_rate": 0.0, "results_ttft_s_max": "x"}
    file_results = parse(tmp_path, "m_550_150_summary.json", document)
    names = [f"{part}_{time}_ms" for time in ("ttft", "itl", "e2el") for part in ("mean", "median", "p99")]
    assert {row["metric"]: row["value"] for row in file_results.rows} == {
        **dict.fromkeys(names, 500.0),
        "output_tokens_per_sec": 132.75,
        "requests_per_min": 12.0,
    }
    assert {(row["declared_model"], row["subset"], row["n_samples"]) for row in file_results.rows} == {
        ("org/m", "concurrency=5,input=550,output=150", 100)
    }
    assert file_results.left_out == (
        "results_ttft_s_max: must be a number, not 'x'",
        "results_num_completed_requests, results_error_rate: counts and other measures are passed over",
    )
    table_of(file_results.rows)


# OpenCompass: summarizers/default.py.
def test_metrics_of_opencompass_keep_their_scale(tmp_path):
    lines = [
        ("ARC-c", "accuracy", "50.00"),
        ("squad", "f1", "40.00"),
        ("openai_humaneval", "humaneval_pass@1", "30.00"),
        ("lcsts", "rouge1", "20.00"),
        ("flores", "BLEU", "10.00"),
        ("alignbench", "score", "7.50"),
        ("mmlu", "naive_average", "25.00"),
        ("cmmlu", "weighted_average", "35.00"),
    ]
    text = "dataset,version,metric,mode,m\n" + "".join(f"{task},ab12cd,{metric},gen,{value}\n" for task, metric, value in lines)
    rows = parse(tmp_path, "summary.csv", text).rows
    assert [(row["task"], row["value"], row["unit"], row["is_group"]) for row in rows] == [
        ("arc_challenge", 0.5, "fraction", False),
        ("squad", 0.4, "fraction", False),
        ("openai_humaneval", 0.3, "fraction", False),
        ("lcsts", 20.0, None, False),
        ("flores", 10.0, None, False),
        ("alignbench", 7.5, None, False),
        ("mmlu", 0.25, "fraction", True),
        ("cmmlu", 0.35, "fraction", True),
    ]


# AlpacaEval: the published leaderboards of tatsu-lab/alpaca_eval.
def test_win_rates_of_alpaca_eval_stay_percent(tmp_path):
    text = ",win_rate,standard_error,n_wins,n_wins_base,n_draws,n_total,discrete_win_rate,mode,avg_length,"
    text += "length_controlled_winrate,lc_standard_error\n"
    text += "org-m,10.99,0.96,88,716,1,805,10.9,community,1444,13.2,0.5\n,1.0,1.0,1,1,1,1,1,x,1,1,1\n"
    text += "b,x,,1,1,1,,,minimal,,,\n"
    file_results = parse(tmp_path, "leaderboard.csv", text)
    columns = ("declared_model", "metric", "value", "stderr", "unit", "n_samples")
    assert [tuple(row[name] for name in columns) for row in file_results.rows] == [
        ("org-m", "win_rate", 10.99, 0.96, "percent", 805),
        ("org-m", "length_controlled_winrate", 13.2, 0.5, "percent", 805),
        ("org-m", "discrete_win_rate", 10.9, None, "percent", 805),
        ("org-m", "avg_length", 1444.0, None, "characters", 805),
    ]
    unread = "columns that are not read: n_wins, n_wins_base, n_draws, mode"
    assert file_results.left_out == (unread, "line 3: no name of a model", "line 4.win_rate: must be a number, not 'x'")
    table_of(file_results.rows)
