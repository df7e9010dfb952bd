"""What result files say of their run and of their measure: settings, splits, how the model was loaded, and no secrets."""

from __future__ import annotations

import json

import pytest

from layerhouse.ingest.results.runs import MAX_TEXT, run_columns, split_arguments
from layerhouse.ingest.results.settings import setting_text, settings_text
from layerhouse.tests.test_result_formats import parse, parsed


def columns_of(rows, *names):
    return [tuple(row[name] for name in names) for row in rows]


# Settings and arguments as text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, None),
        (" ", None),
        (True, "1"),
        (1234567, "1234567"),
        (1234567.0, "1234567"),
        (0.2, "0.2"),
        (float("inf"), "inf"),
        (1e300, "1e+300"),
        ("q8_0", "q8_0"),
        ("a,b=1", '"a,b=1"'),
        (["b", 1], '"[\\"b\\", 1]"'),
    ],
)
def test_a_setting_is_text_that_only_it_has(value, text):
    assert setting_text(value) == text


def test_long_settings_that_differ_at_their_end_differ_as_text():
    first, second = (settings_text({"a": "x" * 200 + end}) for end in "yz")
    assert first != second
    assert max(len(first), len(second)) <= 110
    assert settings_text({"a": None}) is None
    assert settings_text({"a": 1}, "law") == "law,a=1"


def test_arguments_with_commas_in_a_value_stay_whole():
    text = 'pretrained=/m,model_kwargs={"a": 1, "b": 2},dtype=float16'
    assert split_arguments(text) == {"pretrained": "/m", "model_kwargs": '{"a": 1, "b": 2}', "dtype": "float16"}
    assert split_arguments("no name,pretrained=/m") == {"pretrained": "/m"}


def test_long_arguments_that_differ_at_their_end_are_two_variants():
    first, second = (run_columns({"peft": "/a/" + "x" * 400 + end})["variant"] for end in "yz")
    assert first != second
    assert len(first) <= MAX_TEXT + len("adapter=")


def test_a_password_in_an_address_reaches_no_column(tmp_path):
    address = "https://me:hunter2@host/org/m"
    document = {"results": {"a": {"acc,none": 0.5}}, "versions": {}, "config": {"model_args": f"pretrained={address}"}}
    (row,) = parse(tmp_path, "results.json", document).rows
    assert row["declared_model"] == "https://host/org/m"
    assert "hunter2" not in repr(row)
    line = f"{address},t,acc,0.5\n{address},t,acc,{address}\n"
    file_results = parse(tmp_path, "a.csv", f"model,task,metric,value\n{line}")
    assert "hunter2" not in repr(file_results)
    assert len(file_results.left_out) == 1


def test_a_tokenizer_that_is_the_models_own_makes_no_variant():
    assert run_columns({"pretrained": "org/m", "tokenizer": "org/m"})["variant"] is None
    assert run_columns({"pretrained": "org/m", "tokenizer": "org/t"})["variant"] == "tokenizer=org/t"


@pytest.mark.parametrize("backend", ["hf", "HFLM", "gpt2", "hf-multimodal", "hf-causal", "transformers"])
def test_transformers_under_any_name_is_the_plain_run(backend):
    assert run_columns({"pretrained": "org/m"}, backend=backend)["variant"] is None
    assert run_columns({"pretrained": "org/m"}, backend="vllm")["variant"] == "backend=vllm"


# HELM


def helm(tmp_path, run_name, statistics, **adapter):
    folder = tmp_path / run_name.replace("/", "_")
    folder.mkdir()
    spec = {"name": run_name, "adapter_spec": {"model": "org/m", "max_train_instances": 5, **adapter}}
    (folder / "run_spec.json").write_text(json.dumps(spec))
    (folder / "stats.json").write_text(json.dumps(statistics))
    return parsed(folder / "stats.json")


def statistic(metric="exact_match", mean=0.5, **name):
    return {"name": {"name": metric, "split": "test", **name}, "count": 1, "sum": mean, "mean": mean}


@pytest.mark.parametrize(
    ("run_name", "task", "subset", "dataset", "stated"),
    [
        ("commonsense:dataset=hellaswag,model=org_m", "commonsense", None, "hellaswag", None),
        ("commonsense:dataset=openbookqa,model=org_m", "commonsense", None, "openbookqa", None),
        ("math:subject=algebra,level=1,model=org_m", "math_algebra", "level=1", None, "math:subject=algebra"),
        ("math:subject=algebra,level=5,model=org_m", "math_algebra", "level=5", None, "math:subject=algebra"),
        ("mmlu:subject=law,model=org_m", "mmlu_law", None, None, "mmlu:subject=law"),
        ("wikifact:k=5,subject=place,model=org_m", "wikifact_place", "k=5", None, "wikifact:subject=place"),
        ("gsm:stop=hash,model=org_m,model_deployment=huggingface/m", "gsm", "stop=hash", None, None),
    ],
)
def test_every_argument_of_a_run_of_helm_but_the_model_is_part_of_the_measure(
    tmp_path, run_name, task, subset, dataset, stated
):
    rows = helm(tmp_path, run_name, [statistic()]).rows
    assert columns_of(rows, "task", "subset", "dataset", "stated_task", "split", "n_shot", "value") == [
        (task, subset, dataset, stated, "test", 5, 0.5)
    ]
    assert columns_of(rows, "declared_model", "variant") == [("org/m", None)]


def test_splits_and_perturbed_inputs_of_helm_are_rows_of_their_own(tmp_path):
    typos = {"name": "typos", "robustness": True, "fairness": False, "computed_on": "worst", "prob": 0.1}
    statistics = [
        statistic(mean=0.5),
        statistic(mean=0.4, split="valid"),
        statistic(mean=0.3, perturbation=typos),
        statistic(mean=0.2, sub_split="toxic"),
        statistic("num_instances", 10.0),
        {"name": 3},
    ]
    file_results = helm(tmp_path, "gsm:model=org_m", statistics, temperature=0.0, num_train_trials=1)
    typos_text = "perturbation=typos,perturbation.robustness=1,perturbation.computed_on=worst,perturbation.prob=0.1"
    assert columns_of(file_results.rows, "split", "subset", "value") == [
        ("test", "temperature=0", 0.5),
        ("valid", "temperature=0", 0.4),
        ("test", f"temperature=0,{typos_text}", 0.3),
        ("test", "temperature=0,sub_split=toxic", 0.2),
    ]
    assert file_results.left_out == ("[5]: no statistic with a name", "stats: 1 of counts and costs, passed over")


@pytest.mark.parametrize(
    ("deployment", "variant"),
    [
        (None, None),
        ("huggingface/m", None),
        ("together/m", "backend=together"),
        ("huggingface/m-int8", "model_deployment=huggingface/m-int8"),
    ],
)
def test_a_deployment_of_helm_is_how_the_model_was_loaded(tmp_path, deployment, variant):
    (row,) = helm(tmp_path, "gsm:model=org_m", [statistic()], model_deployment=deployment).rows
    assert (row["declared_model"], row["variant"]) == ("org/m", variant)


def test_a_run_of_helm_without_its_spec_is_read_from_the_folders_name(tmp_path):
    folder = tmp_path / "math:subject=algebra,level=1,max_train_instances=8,model=org_m"
    folder.mkdir()
    (folder / "stats.json").write_text(json.dumps([statistic()]))
    rows = parsed(folder / "stats.json").rows
    assert columns_of(rows, "task", "subset", "n_shot", "declared_model") == [("math_algebra", "level=1", 8, "org_m")]


# lighteval


def lighteval(results, general=None, tasks=None):
    return {"config_general": {"model_name": "org/m", **(general or {})}, "results": results, "config_tasks": tasks or {}}


TASK_CONFIG = {
    "hf_repo": "allenai/ai2_arc",
    "hf_subset": "ARC-Challenge",
    "evaluation_splits": ["test"],
    "few_shots_split": "train",
    "few_shots_select": "sequential",
    "original_num_docs": 1172,
    "effective_num_docs": 1172,
    "metrics": [{"metric_name": "acc", "higher_is_better": True, "category": "MULTICHOICE"}],
}


def test_suites_and_datasets_of_lighteval_are_part_of_the_measure(tmp_path):
    results = {f"{suite}|arc:challenge|25": {"acc": 0.5, "acc_stderr": 0.01} for suite in ("leaderboard", "lighteval")}
    results["arc:challenge|0"] = {"acc": 0.25}
    document = lighteval(results, {"max_samples": 2000}, {"arc:challenge": TASK_CONFIG})
    rows = parse(tmp_path, "results.json", document).rows
    columns = ("task", "stated_task", "dataset", "split", "n_shot", "n_samples", "sample_limit", "higher_is_better")
    assert columns_of(rows, *columns) == [
        ("arc_challenge", "arc:challenge", "allenai/ai2_arc", "test", shots, 1172, None, True) for shots in (25, 25, 0)
    ]
    fewshot = "fewshot_split=train,fewshot_select=sequential"
    assert [row["subset"] for row in rows] == [
        f"ARC-Challenge,suite=leaderboard,{fewshot}",
        f"ARC-Challenge,suite=lighteval,{fewshot}",
        "ARC-Challenge",
    ]


@pytest.mark.parametrize("key", ["s|t|3", "s|t", "t|3", "t"])
def test_the_configuration_of_a_task_is_found_under_every_form_of_its_key(tmp_path, key):
    document = lighteval({"s|t|3|0": {"acc": 0.5}}, tasks={key: TASK_CONFIG})
    assert columns_of(parse(tmp_path, "a.json", document).rows, "dataset") == [("allenai/ai2_arc",)]


def test_a_mean_over_other_tasks_is_another_measure(tmp_path):
    means = {}
    for name, tasks in {"two": ("mmlu:law", "mmlu:art"), "one": ("mmlu:law",)}.items():
        results = {f"{task}|5": {"acc": 0.5} for task in tasks} | {"mmlu:_average|5": {"acc": 0.5}, "all": {"acc": 0.5}}
        rows = parse(tmp_path, f"{name}.json", lighteval(results)).rows
        means[name] = [row["subset"] for row in rows if row["is_group"]]
        assert [row["task"] for row in rows if row["is_group"]] == ["mmlu", "all"]
    assert [text[:8] for text in means["two"] + means["one"]] == ["tasks=2 "] * 2 + ["tasks=1 "] * 2
    assert means["two"][0] == means["two"][1]


@pytest.mark.parametrize(
    ("category", "is_sampled"),
    [("MULTICHOICE", False), ("SamplingMethod.LOGPROBS", False), ("GENERATIVE", True), (None, True), ("8", True)],
)
def test_settings_of_generation_count_for_tasks_that_may_generate(tmp_path, category, is_sampled):
    tasks = {"t|0": {"metrics": [{"metric_name": "acc", "category": category}]}}
    general = {"model_config": {"generation_parameters": {"temperature": 0.6, "top_p": None, "max_new_tokens": 512}}}
    (row,) = parse(tmp_path, "a.json", lighteval({"t|0": {"acc": 0.5}}, general, tasks)).rows
    assert row["subset"] == ("temperature=0.6,max_new_tokens=512" if is_sampled else None)


def test_how_lighteval_loaded_the_model_without_its_keys(tmp_path):
    config = {"model_name": "org/m", "revision": "step3000", "dtype": "float16", "api_key": "secret", "batch_size": 8}
    config |= {"add_special_tokens": True, "gpu_memory_utilization": 0.9, "system_prompt": "Be brief.", "cache_dir": "~/x"}
    general = {"model_config": config | {"override_chat_template": False}, "model_sha": "ab12", "model_dtype": "torch.float16"}
    general["lighteval_sha"] = "6b9d193"
    (row,) = parse(tmp_path, "a.json", lighteval({"t|0": {"acc": 0.5}}, general)).rows
    assert (row["variant"], row["loaded_as"]) == (
        "revision=step3000, dtype=float16, backend=vllm",
        "sha=ab12, dtype=float16",
    )
    assert (row["revision"], row["harness_commit"]) == ("step3000", "6b9d193")
    assert row["chat_template"].startswith("no template, system ")
    assert "secret" not in repr(row)
    old = {"model_sha": "ab12", "model_dtype": "torch.bfloat16", "lighteval_sha": "?", "use_chat_template": True}
    (row,) = parse(tmp_path, "b.json", lighteval({"t|0": {"acc": 0.5}}, old)).rows
    assert columns_of([row], "variant", "loaded_as", "revision", "harness_commit", "chat_template") == [
        (None, "sha=ab12, dtype=bfloat16", "ab12", None, "template")
    ]
