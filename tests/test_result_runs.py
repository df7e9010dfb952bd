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


# Speeds

SERVE = {
    "backend": "vllm",
    "model_id": "org/m",
    "tokenizer_id": "org/m",
    "num_prompts": 100,
    "request_rate": "inf",
    "burstiness": 1.0,
    "max_concurrency": 8,
    "duration": 10.0,
    "completed": 100,
    "failed": 0,
    "total_input_tokens": 102400,
    "total_output_tokens": 12850,
    "request_throughput": 10.0,
    "mean_ttft_ms": 12.5,
}
LOAD = "backend=vllm,prompts=100,rate=inf,concurrency=8,input=1024,output=~130"


def test_the_load_of_vllm_is_part_of_the_measure_and_its_weights_are_the_run(tmp_path):
    metadata = {"tensor_parallel_size": "4", "dtype": "float16", "quantization": "fp8", "gpu": "H100", "api_key": "secret"}
    file_results = parse(tmp_path, "serve.json", SERVE | metadata | {"burstiness": 0.5, "label": "a"})
    subset = LOAD.replace("inf,", "inf,burstiness=0.5,").replace("8,", "8,tp=4,")
    assert set(columns_of(file_results.rows, "subset", "variant", "loaded_as", "hardware")) == {
        (subset, "dtype=float16, quantization=fp8", "label=a", "H100")
    }
    assert file_results.left_out == ()
    assert "secret" not in repr(file_results)
    plain = parse(tmp_path, "plain.json", SERVE).rows
    assert set(columns_of(plain, "subset", "variant", "loaded_as")) == {(LOAD, None, None)}
    assert not any(note["code"] == "failed" for row in plain for note in row["notes"])


@pytest.mark.parametrize(("change", "text"), [({"failed": 3, "completed": 97}, "3 of 100"), ({"completed": 90}, "10 of 100")])
def test_failed_requests_are_a_note_on_every_number(tmp_path, change, text):
    for row in parse(tmp_path, "serve.json", SERVE | change).rows:
        (note,) = [note for note in row["notes"] if note["code"] == "failed"]
        assert note["text"] == f"{text} requests failed; the numbers are of the others"


def test_lengths_that_a_file_states_stand_before_those_of_its_totals(tmp_path):
    stated = {"random_input_len": 1000, "random_output_len": 200}
    assert parse(tmp_path, "serve.json", SERVE | stated).rows[0]["subset"].endswith("input=1000,output=200")
    throughput = {"elapsed_time": 10.0, "num_requests": 10, "total_num_tokens": 5000, "tokens_per_second": 500.0}
    assert parse(tmp_path, "a.json", throughput).rows[0]["subset"] == "prompts=10,tokens=500"
    both = parse(tmp_path, "b.json", throughput | {"total_output_tokens": 1280}).rows[0]["subset"]
    assert both == "prompts=10,input=372,output=128"
    latency = {"avg_latency": 1.5, "percentiles": {"99": 2.0}, "input_len": 32, "output_len": 128, "batch_size": 8}
    rows = parse(tmp_path, "latency.json", latency).rows
    assert columns_of(rows, "value", "subset", "batch_size") == [
        (1.5, "input=32,output=128", 8),
        (2.0, "input=32,output=128", 8),
    ]


def test_the_server_of_sglang_says_which_model_and_how_it_was_loaded(tmp_path):
    server = {
        "model_path": "org/m",
        "tp_size": 4,
        "quantization": "fp8",
        "api_key": "secret",
        "version": "0.4.6",
        "dtype": "auto",
    }
    run = {"backend": "sglang", "duration": 1.0, "mean_e2e_latency_ms": 1.0, "server_info": server, "tag": "a"}
    file_results = parse(tmp_path, "a.jsonl", json.dumps(run))
    columns = ("declared_model", "subset", "variant", "loaded_as", "harness_version")
    assert columns_of(file_results.rows, *columns) == [("org/m", "backend=sglang,tp=4", "quantization=fp8", "tag=a", "0.4.6")]
    assert "secret" not in repr(file_results)


@pytest.mark.parametrize(
    "config",
    [
        {"synthetic_input_tokens_mean": 550, "output_tokens_mean": 150, "concurrency": 4, "endpoint_type": "chat"},
        {
            "input": {"synthetic_tokens": {"mean": 550, "stddev": 0}, "output_tokens": {"mean": 150}},
            "perf_analyzer": {"stimulus": {"concurrency": 4}},
            "endpoint": {"type": "chat", "streaming": False},
        },
        {
            "input": {"prompt": {"input_tokens": {"mean": 550}, "output_tokens": {"mean": 150}}},
            "loadgen": {"concurrency": 4},
            "endpoint": {"type": "chat"},
        },
    ],
)
def test_the_load_of_genai_perf_in_every_version(tmp_path, config):
    report = {"request_throughput": {"avg": 1.0}, "input_sequence_length": {"avg": 551.2}, "input_config": config}
    (row,) = parse(tmp_path, "profile.json", report).rows
    assert row["subset"] == "concurrency=4,input=550,output=150,endpoint=chat"


def test_the_load_of_llmperf_and_its_failed_requests(tmp_path):
    document = {"model": "org/m", "results_inter_token_latency_s_mean": 0.5, "num_concurrent_requests": 2}
    document |= {"results_mean_output_throughput_token_per_s": 5.0, "timestamp": 1700000000, "results_number_errors": 2}
    document |= {"mean_input_tokens": 550, "stddev_input_tokens": 10, "results_num_completed_requests": 8}
    rows = parse(tmp_path, "summary.json", document).rows
    assert set(columns_of(rows, "subset", "n_samples")) == {("concurrency=2,input=550,input_std=10", 8)}
    assert {str(row["run_at"]) for row in rows} == {"2023-11-14 22:13:20+00:00"}
    assert {row["notes"][0]["text"] for row in rows} == {"2 of 10 requests failed; the numbers are of the others"}


def test_the_settings_of_optimum_benchmark(tmp_path):
    backend = {"name": "pytorch", "model": "org/m", "device": "cpu", "torch_dtype": "float16", "attn_implementation": "sdpa"}
    backend |= {"quantization_scheme": "bnb", "quantization_config": {"load_in_4bit": True}, "torch_compile": False}
    backend |= {"model_kwargs": {"trust_remote_code": True, "revision": "v2"}}
    scenario = {"name": "inference", "input_shapes": {"batch_size": 2, "sequence_length": 256}}
    scenario |= {"generate_kwargs": {"max_new_tokens": 64, "min_new_tokens": 64}}
    config = {"backend": backend, "scenario": scenario, "environment": {"cpu": "EPYC", "gpu": ["H100"]}}
    report = {"decode": {"throughput": {"unit": "tokens/s", "value": 50.0}}}
    (row,) = parse(tmp_path, "benchmark.json", {"config": config, "report": report}).rows
    assert columns_of([row], "subset", "batch_size", "hardware", "variant") == [
        (
            "backend=pytorch,device=cpu,attn_implementation=sdpa,input=256,output=64,output_min=64,scenario=inference",
            2,
            "EPYC",
            "revision=v2, dtype=float16, quantization=bnb load_in_4bit=True",
        )
    ]


# lm-evaluation-harness


def lm_eval(results=None, config=None, **more):
    results = results or {"gsm8k": {"exact_match,strict-match": 0.5}}
    return {"results": results, "versions": dict.fromkeys(results, 1), "config": config or {}, **more}


def test_settings_of_generation_are_part_of_the_measure_of_tasks_that_generate(tmp_path):
    results = {"gsm8k": {"exact_match,strict-match": 0.5}, "piqa": {"acc,none": 0.7}, "both": {"acc,none": 0.6}}
    configs = {"gsm8k": {"output_type": "generate_until", "dataset_name": "main"}, "piqa": {"output_type": "multiple_choice"}}
    document = lm_eval(
        results,
        {"model": "hf", "model_args": "pretrained=org/m", "gen_kwargs": {"temperature": 0.6, "do_sample": True}},
        configs=configs,
        group_subtasks={"both": ["gsm8k", "piqa"]},
    )
    text = 'gen_kwargs="do_sample=True temperature=0.6"'
    assert columns_of(parse(tmp_path, "results.json", document).rows, "task", "subset") == [
        ("gsm8k", f"main,{text}"),
        ("piqa", None),
        ("both", text),
    ]
    document["config"]["gen_kwargs"] = "temperature=0.6,do_sample=True"
    assert parse(tmp_path, "text.json", document).rows[2]["subset"] == text


@pytest.mark.parametrize(
    ("limit", "samples", "sample_limit"),
    [
        (None, (100, 100), None),
        (10.0, (100, 10), 10.0),
        (0.1, (100, 10), 0.1),
        (500.0, (100, 100), None),
        (None, (100, 7), 7.0),
        (10.0, None, 10.0),
    ],
)
def test_a_cap_counts_where_it_left_documents_out(tmp_path, limit, samples, sample_limit):
    counts = {"gsm8k": dict(zip(("original", "effective"), samples, strict=True))} if samples else {}
    (row,) = parse(tmp_path, "results.json", lm_eval(config={"limit": limit}, **{"n-samples": counts})).rows
    assert row["sample_limit"] == sample_limit


@pytest.mark.parametrize(
    ("document", "template"),
    [
        ({"chat_template": "{{ messages }}", "chat_template_sha": "ab" * 32}, "template abababababab"),
        ({"chat_template": "{{ messages }}", "fewshot_as_multiturn": True}, "template f24189f08c85, multiturn"),
        ({"chat_template": None, "fewshot_as_multiturn": True}, None),
        ({"system_instruction": "Be brief.", "system_instruction_sha": "cd" * 32}, "system cdcdcdcdcdcd"),
        ({"chat_template": True}, "template"),
    ],
)
def test_how_prompts_were_set_as_a_chat(tmp_path, document, template):
    (row,) = parse(tmp_path, "results.json", lm_eval(**document)).rows
    assert row["chat_template"] == template


@pytest.mark.parametrize(
    ("config", "more", "declared", "variant"),
    [
        ({"model": "hf", "model_args": "pretrained=org/m,dtype=auto"}, {}, "org/m", None),
        ({"model": "vllm", "model_args": {"pretrained": "org/m", "tensor_parallel_size": 4}}, {}, "org/m", "backend=vllm"),
        ({"model": "local-completions", "model_args": "model=org/m,base_url=u"}, {}, "org/m", "backend=local-completions"),
        ({"model_args": "pretrained=org/m"}, {"model_source": "gguf"}, "org/m", "backend=gguf"),
        (
            {"model": "hf", "model_args": "pretrained=org/m,delta=org/d"},
            {"model_name": "org/d"},
            "org/m",
            "delta_weights=org/d",
        ),
        ({"model": "hf", "model_args": "pretrained=org/m,peft=org/a"}, {"model_name": "org/a"}, "org/m", "adapter=org/a"),
        ({"model": "HFLM", "model_args": None}, {"model_name": ""}, None, None),
    ],
)
def test_how_lm_eval_loaded_the_model(tmp_path, config, more, declared, variant):
    (row,) = parse(tmp_path, "results.json", lm_eval(config=config, **more)).rows
    assert (row["declared_model"], row["variant"]) == (declared, variant)


def test_commits_of_an_adapter_tell_runs_apart(tmp_path):
    config = {"model": "hf", "model_args": "pretrained=org/m,peft=org/a", "model_sha": "ab", "peft_sha": "cd"}
    (row,) = parse(tmp_path, "results.json", lm_eval(config=config)).rows
    assert row["loaded_as"] == "sha=ab, adapter_sha=cd"


def test_the_language_that_a_task_states(tmp_path):
    results = {name: {"acc,none": 0.5} for name in "abc"}
    configs = {"a": {"language": "en"}, "b": {"metadata": {"language": "zh"}}, "c": {"dataset_name": "sw"}}
    rows = parse(tmp_path, "results.json", lm_eval(results, configs=configs)).rows
    assert columns_of(rows, "language", "subset") == [("en", None), ("zh", None), (None, "sw")]


def test_lengths_of_ruler_that_were_not_run_are_missing(tmp_path):
    scores = {"4096,none": 0.75, "4096_stderr,none": "N/A", "8192,none": -1.0, "16384,none": -1}
    document = lm_eval({"niah_single_1": scores | {"alias": "x"}, "ruler": {"8192,none": -1.0}, "t": {"acc,none": -1.0}})
    rows = parse(tmp_path, "results.json", document).rows
    assert columns_of(rows, "task", "metric", "seq_len", "value", "status", "unit") == [
        ("niah_single_1", "4096", 4096, 0.75, "ok", "fraction"),
        ("niah_single_1", "8192", 8192, None, "missing", None),
        ("niah_single_1", "16384", 16384, None, "missing", None),
        ("ruler", "8192", 8192, None, "missing", None),
        ("t", "acc", None, -1.0, "ok", None),
    ]
    assert rows[1]["notes"][0] == {"code": "not_run", "text": "the file says -1: nothing of 8192 tokens was run"}


def test_a_mean_of_ruler_that_is_computed_has_no_lengths_that_were_not_run(tmp_path):
    results = {"a": {"4096,none": 0.5, "8192,none": -1.0}, "b": {"4096,none": 1.0, "8192,none": -1.0}, "ruler": {}}
    samples = {name: {"original": 10, "effective": 10} for name in "ab"}
    document = lm_eval(results, group_subtasks={"ruler": ["a", "b"]}, **{"n-samples": samples})
    file_results = parse(tmp_path, "results.json", document)
    assert columns_of([row for row in file_results.rows if row["is_group"]], "metric", "seq_len", "value") == [
        ("4096", 4096, 0.75)
    ]
    assert file_results.left_out == ("results.ruler.8192,none: no score, and not every member has one and its size",)


def test_a_file_of_mlx_lm_was_run_by_mlx(tmp_path):
    name = "eval_org_m_0.4.8_piqa"
    (row,) = parse(tmp_path, name, {"piqa": {"acc,none": 0.5, "acc_stderr,none": 0.1}}).rows
    assert row["variant"] == "backend=mlx_lm"


def test_two_runs_of_one_model_in_a_page_of_tables_are_two(tmp_path):
    table = "|Tasks|Version|Filter|n-shot|Metric|   |Value |   |Stderr|\n|--|--|--|--|--|--|--|--|--|\n"
    page = ""
    for number, arguments in enumerate(("", ",load_in_4bit=True", ",revision=v2")):
        settings = f"gen_kwargs: ({'temperature=1' if number == 2 else None}), limit: None, num_fewshot: None, batch_size: 1"
        page += f"hf (pretrained=org/m{arguments}), {settings}\n{table}|piqa|1|none|0|acc|↑|0.{number + 5}000|±|0.0100|\n\n"
    file_results = parse(tmp_path, "page.md", page)
    assert columns_of(file_results.rows, "variant", "subset", "value") == [
        (None, None, 0.5),
        ("load_in_4bit", None, 0.6),
        ("revision=v2", 'gen_kwargs="temperature=1"', 0.7),
    ]
    assert file_results.left_out == ()


# Other forms


def test_the_version_of_a_prompt_of_opencompass_is_part_of_the_measure(tmp_path):
    text = "dataset,version,metric,mode,a\nARC-c,1194eb,accuracy,ppl,75\nARC-c,ab12cd,accuracy,ppl,70\n"
    text += "mmlu,-,naive_average,gen,60\n"
    rows = parse(tmp_path, "summary.csv", text).rows
    assert columns_of(rows, "task", "stated_task", "subset", "n_shot") == [
        ("arc_challenge", "ARC-c", "ppl,version=1194eb", None),
        ("arc_challenge", "ARC-c", "ppl,version=ab12cd", None),
        ("mmlu", None, "gen", None),
    ]


def inspect_log(spec=None, **more):
    metrics = {"accuracy": {"name": "accuracy", "value": 0.5}}
    results = {"completed_samples": 10, "scores": [{"name": "choice", "metrics": metrics, "params": {"cot": True}}]}
    spec = {"task": "arc", "model": "vllm/org/m", "created": "2026-01-31T12:00:00+00:00"} | (spec or {})
    return {"version": 2, "status": "success", "eval": spec, "results": results, **more}


def test_what_a_score_of_inspect_depends_on(tmp_path):
    spec = {"model_args": {"dtype": "float16", "api_key": "secret"}, "config": {"epochs": 4}, "task_args": {"fewshot": 5}}
    spec |= {"task_version": 2}
    plan = {"steps": [{"solver": "system_message", "params": {"template": "Be brief."}}, {"solver": "generate", "params": {}}]}
    plan["config"] = {"temperature": 0.6}
    (row,) = parse(tmp_path, "log.json", inspect_log(spec, plan=plan)).rows
    assert (row["declared_model"], row["variant"]) == ("vllm/org/m", "dtype=float16, backend=vllm")
    settings = dict(part.split("=", 1) for part in row["subset"].split(","))
    assert settings.pop("solver_args")
    assert settings == {
        "epochs": "4",
        "version": "2",
        "task_args": '"fewshot=5"',
        "solver": "system_message+generate",
        "generation": '"temperature=0.6"',
        "scorer_args": '"cot=True"',
    }
    assert "secret" not in repr(row)
    (row,) = parse(tmp_path, "log.json", inspect_log({"model": "hf/org/m"})).rows
    assert row["variant"] is None


def test_the_samples_name_of_evalplus_says_which_model_and_how_it_was_sampled(tmp_path):
    solution = {"task_id": "HumanEval/0", "base_status": "pass", "plus_status": "pass"}
    document = {
        "date": "2026-01-31 12:00",
        "hash": "ab",
        "eval": {"HumanEval/0": [solution]},
        "pass_at_k": {"base": {"pass@1": 1.0}},
    }
    for name, expected in {
        "org--m_vllm_temp_0.8_eval_results.json": ("org/m", "backend=vllm", "temperature=0.8"),
        "org--m-1_hf_temp_0.0-sanitized_eval_results.json": ("org/m-1", None, "temperature=0,samples=sanitized"),
        "eval_results.json": (None, None, None),
    }.items():
        rows = parse(tmp_path, name, document).rows
        assert columns_of(rows, "declared_model", "variant", "subset") == [expected]


@pytest.mark.parametrize(
    ("folder", "subset"),
    [("weighted_alpaca_eval_gpt4_turbo", "annotators=weighted_alpaca_eval_gpt4_turbo"), ("results", None)],
)
def test_the_annotators_of_alpaca_eval_are_part_of_the_measure(tmp_path, folder, subset):
    (tmp_path / folder).mkdir()
    rows = parse(tmp_path / folder, "leaderboard.csv", ",win_rate,standard_error\norg-m,10.5,0.5\n").rows
    assert columns_of(rows, "value", "subset") == [(10.5, subset)]


def test_the_studys_form_states_no_examples_and_may_state_the_run(tmp_path):
    zeroshot = {"piqa": {"acc,none": 0.5}, "boolq": 0.75, "mmlu": {"acc,none": 0.25, "n_shot": 5}}
    metrics = {"zeroshot": zeroshot, "avg_zeroshot_acc": 0.5, "ppl_2048": {"ptb": 20.0}}
    document = {"model_path": "org/m", "revision": "v2", "load_in_4bit": True, "chat_template": "chatml", "metrics": metrics}
    file_results = parse(tmp_path, "evaluation_results.json", document)
    assert columns_of(file_results.rows, "task", "n_shot") == [
        ("piqa", 0),
        ("boolq", 0),
        ("mmlu", 5),
        ("zeroshot", 0),
        ("ptb", None),
    ]
    assert set(columns_of(file_results.rows, "variant", "chat_template")) == {("revision=v2, load_in_4bit", "chatml")}
    assert file_results.left_out == ()


def test_counts_under_efficiency_are_those_of_a_model_unless_its_own_section_has_them(tmp_path):
    info = {"total_params": 90, "num_layers": 2, "module_params": {"mlp": 60}}
    metrics = {"model_info": {"total_params": 100}, "efficiency": {"model_info": info, "memory": {"model_memory_mb": 1.5}}}
    file_results = parse(tmp_path, "evaluation_results.json", {"metrics": metrics})
    assert columns_of(file_results.rows, "suite", "metric", "value", "unit", "subset") == [
        ("model_info", "total_params", 100, "parameters", None),
        ("model_info", "num_layers", 2, "layers", None),
        ("model_info", "mlp", 60, "parameters", "module_params"),
        ("memory", "model_memory_mb", 1.5, "MiB", None),
    ]
    assert file_results.left_out == ("metrics.efficiency.model_info.total_params: metrics.model_info is taken",)


def test_a_table_may_say_of_every_line_how_the_model_was_loaded(tmp_path):
    long = "Model,task,metric,value,Language,chat_template,limit,harness,revision,dtype,load_in_4bit,n_shot\n"
    long += "org/m,mgsm,exact_match,0.5,en,,,,,,,8\norg/m,mgsm,exact_match,0.25,zh,chatml,100,lm_eval,v2,float16,true,8\n"
    long += "org/m,mgsm,exact_match,0.5,,,many,,,,,\n"
    file_results = parse(tmp_path, "long.csv", long)
    columns = ("value", "language", "chat_template", "sample_limit", "harness", "n_shot", "variant", "revision")
    assert columns_of(file_results.rows, *columns) == [
        (0.5, "en", None, None, "table", 8, None, None),
        (0.25, "zh", "chatml", 100.0, "lm_eval", 8, "revision=v2, load_in_4bit, dtype=float16", "v2"),
    ]
    assert file_results.left_out == ("line 4: limit must be a number, not 'many'",)
    wide = [{"model": "org/m", "revision": revision, "piqa/acc": 0.5, "n_shot": 5, "load_in_8bit": True} for revision in "ab"]
    rows = parse(tmp_path, "wide.json", wide).rows
    assert columns_of(rows, "task", "variant", "n_shot", "suite") == [
        ("piqa", f"revision={revision}, load_in_8bit", 5, "fewshot") for revision in "ab"
    ]


def test_names_of_a_table_that_are_not_ours_are_kept(tmp_path):
    rows = parse(
        tmp_path, "a.csv", "model,task,metric,value\nm,hendrycksTest-law,acc,0.5\nm,lambada,ppl,4.5\nm,piqa,acc,0.5\n"
    ).rows
    assert columns_of(rows, "task", "metric", "stated_task", "stated_metric") == [
        ("mmlu_law", "acc", "hendrycksTest-law", None),
        ("lambada_openai", "perplexity", "lambada", "ppl"),
        ("piqa", "acc", None, None),
    ]


def test_adapters_caches_and_chunks_of_llama_perplexity_tell_runs_apart(tmp_path):
    loader = "llama_model_loader: loaded meta data with 29 key-value pairs and 291 tensors from m.gguf (version GGUF V3)\n"
    end = "perplexity: calculating perplexity over {} chunks, n_ctx=512, batch_size=2048, n_seq=4\n"
    end += "Final estimate: PPL = {} +/- 0.1\n"
    cache = "llama_kv_cache: size =  136.00 MiB (  4096 cells), K ({}):   68.00 MiB, V (f16):   68.00 MiB\n"
    adapter = "llama_adapter_lora_init_impl: loading lora adapter from 'a.gguf' ...\n"
    text = loader + cache.format("f16") + end.format(200, 6.5) + loader + adapter + end.format(200, 6.25)
    text += loader + cache.format("q8_0") + end.format(10, 6.75)
    file_results = parse(tmp_path, "ppl.log", text)
    assert columns_of(file_results.rows, "value", "variant", "adapter", "subset", "seq_len") == [
        (6.5, None, None, "chunks=200", 512),
        (6.25, "adapter=a.gguf", "a.gguf", "chunks=200", 512),
        (6.75, "type_k=q8_0", None, "chunks=10", 512),
    ]
    assert file_results.left_out == ()


def test_a_benchmark_of_slicegpt_has_its_batch_size_and_precision(tmp_path):
    speeds = "Median time per batch: 0.5 s/batch.\nThroughput: 256.5 token/s.\nLatency: 0.0039 s/token.\n"
    text = "Parsed arguments:\nmodel = org/m\ndtype = fp16\nbatch_size = 4\nhf_token = secret\n" + speeds
    file_results = parse(tmp_path, "bench.log", text)
    assert columns_of(file_results.rows, "metric", "value", "batch_size", "variant") == [
        ("latency_s_per_batch", 0.5, 4, "dtype=fp16"),
        ("tokens_per_sec", 256.5, 4, "dtype=fp16"),
        ("latency_s_per_token", 0.0039, 4, "dtype=fp16"),
    ]
    assert "secret" not in repr(file_results)


def test_failed_requests_of_genai_perf_are_a_note(tmp_path):
    report = {"request_throughput": {"avg": 1.0}, "error_request_count": {"avg": 2.0}, "request_count": {"avg": 8.0}}
    (row,) = parse(tmp_path, "profile.json", report).rows
    assert row["notes"][0] == {"code": "failed", "text": "2 of 10 requests failed; the numbers are of the others"}


def test_how_bigcode_prompted_and_sampled(tmp_path):
    usual = {"model": "org/m", "temperature": 0.2, "n_samples": 20, "top_p": 0.95, "top_k": 0, "do_sample": True, "prefix": ""}
    usual |= {"max_length_generation": 512, "prompt": "prompt", "limit_start": 0}
    rows = []
    for number, more in enumerate(({}, {"top_p": 0.9, "do_sample": False}, {"prefix": "<fim>", "precision": "bf16"})):
        rows += parse(tmp_path, f"{number}.json", {"humaneval": {"pass@1": 0.5}, "config": usual | more}).rows
    assert columns_of(rows, "subset", "variant") == [
        ("temperature=0.2,solutions=20", None),
        ("temperature=0.2,solutions=20,top_p=0.9,sampled=0", None),
        ("temperature=0.2,solutions=20", "dtype=bf16"),
    ]
    assert [row["chat_template"] for row in rows[:2]] == [None, None]
    assert rows[2]["chat_template"].startswith("prefix ")


def test_settings_of_the_studys_speeds_are_part_of_the_measure(tmp_path):
    speed = {
        "batch_size_1": {"total_tokens": 1, "prompt_length": 64},
        "batch_size_2": {"total_tokens": 2},
        "max_new_tokens": 128,
    }
    efficiency = {"dtype": "float16", "speed": speed, "memory": {"model_memory_mb": 3}, "joules": 4}
    file_results = parse(tmp_path, "evaluation_results.json", {"metrics": {"efficiency": efficiency}})
    assert columns_of(file_results.rows, "metric", "value", "batch_size", "subset") == [
        ("total_tokens", 1, 1, "dtype=float16,output=128,input=64"),
        ("total_tokens", 2, 2, "dtype=float16,output=128"),
        ("model_memory_mb", 3, None, "dtype=float16"),
        ("joules", 4, None, "dtype=float16"),
    ]
    assert file_results.left_out == ()


def test_a_dataset_that_a_log_calls_otherwise_is_kept_as_it_is_called(tmp_path):
    rows = parse(tmp_path, "wanda.log", "wikitext perplexity 7.5\nc4 perplexity 9.5\n").rows
    assert columns_of(rows, "task", "stated_task") == [("wikitext2", "wikitext"), ("c4", None)]
