"""What tools print: logs and tables among other text, and tables with other headers. Every number is a row or a named line."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest

import layerhouse as lh
from layerhouse.errors import InputError
from layerhouse.ingest.results.documents import may_be_result, read_document
from layerhouse.ingest.results.registry import recognise
from layerhouse.ingest.results.resemblance import resembles_results
from layerhouse.tests.test_result_formats import parse, table_of
from layerhouse.tests.weight_files import entry, safetensors_bytes

LOADED = (
    "llama_model_loader: loaded meta data with 30 key-value pairs and 291 tensors from models/m-Q4_K.gguf (version GGUF V3)\n"
)
# As llama-perplexity prints it: tools/perplexity/perplexity.cpp of llama.cpp.
PERPLEXITY = (
    LOADED
    + "0.24.342.828 I perplexity: calculating perplexity over 200 chunks, n_ctx=512, batch_size=2048, n_seq=4\n"
    + "0.31.519.491 I perplexity: 7.18 seconds per pass - ETA 5.97 minutes\n"
    + "[1]4.3196,[2]6.0868,[199]6.7956,[200]6.7983,\n"
    + "1.12.579.214 I Final estimate: PPL = 6.7983 +/- 0.07405\n"
)
DIVERGENCE = """\
kl_divergence: computing over 12 chunks, n_ctx=256, batch_size=512, n_seq=1
chunk             PPL               ln(PPL(Q)/PPL(base))          KL Divergence              Δp RMS            Same top p
   1       7.0123 ±    1.4211       0.02101 ±    0.01213       0.02911 ±    0.00302     5.012 ±  0.588 %    92.157 ±  1.687 %

====== Perplexity statistics ======
Mean PPL(Q)                   :   8.966302 ±   0.160270
Mean PPL(base)                :   8.453608 ±   0.150165
Cor(ln(PPL(Q)), ln(PPL(base))):  98.10%
Mean ln(PPL(Q)/PPL(base))     :   0.058880 ±       -nan
Mean PPL(Q)/PPL(base)         :   1.060648 ±   0.003689
Mean PPL(Q)-PPL(base)         :   0.512694 ±   0.031904

====== KL divergence statistics ======
Mean    KLD:   0.097973 ±   0.002198
Maximum KLD:  20.749897
99.9%   KLD:   4.200683
 5.0%   KLD:   0.000028
Median  KLD:   0.024584
Minimum KLD:  -0.000134

====== Token probability statistics ======
Mean    Δp: -1.461 ± 0.065 %
99.0%   Δp: 21.144%
Minimum Δp: -99.634%
RMS Δp    :  9.177 ± 0.076 %
Same top p: 87.280 ± 0.120 %
"""


def test_a_run_of_llama_perplexity_has_its_model_context_and_error(tmp_path):
    file_results = parse(tmp_path, "ppl.log", PERPLEXITY)
    (row,) = file_results.rows
    assert (row["value"], row["stderr"], row["unit"], row["seq_len"], row["n_samples"]) == (
        6.7983,
        0.07405,
        "per_token",
        512,
        200,
    )
    assert (row["declared_model"], row["dataset"], row["harness"]) == ("models/m-Q4_K.gguf", None, "llama_perplexity")
    assert [note["code"] for note in row["notes"]] == ["dataset", "run_at"]
    assert file_results.left_out == ()


def test_divergences_are_a_row_a_line_and_the_other_models_perplexity_is_not_this_ones(tmp_path):
    file_results = parse(tmp_path, "kld.txt", DIVERGENCE)
    table_of(file_results.rows)
    printed = re.findall(r"^ *(?:Mean|Maximum|Median|Minimum|RMS|Cor|Same|[\d.]+%).*$", DIVERGENCE, re.MULTILINE)
    assert len(file_results.rows) == len(printed) == 17
    assert {row["metric"]: (row["value"], row["stderr"], row["unit"]) for row in file_results.rows} == {
        "perplexity": (8.966302, 0.160270, "per_token"),
        "base_perplexity": (8.453608, 0.150165, "per_token"),
        "perplexity_correlation": (98.10, None, "percent"),
        "mean_ln_perplexity_ratio": (0.058880, None, None),
        "mean_perplexity_ratio": (1.060648, 0.003689, None),
        "mean_perplexity_difference": (0.512694, 0.031904, "per_token"),
        "mean_kld": (0.097973, 0.002198, "nats"),
        "max_kld": (20.749897, None, "nats"),
        "p99.9_kld": (4.200683, None, "nats"),
        "p5_kld": (0.000028, None, "nats"),
        "median_kld": (0.024584, None, "nats"),
        "min_kld": (-0.000134, None, "nats"),
        "mean_token_probability_change": (-1.461, 0.065, "percent"),
        "p99_token_probability_change": (21.144, None, "percent"),
        "min_token_probability_change": (-99.634, None, "percent"),
        "rms_token_probability_change": (9.177, 0.076, "percent"),
        "same_top_token": (87.280, 0.120, "percent"),
    }
    assert {row["seq_len"] for row in file_results.rows} == {256}


def test_runs_of_two_models_in_one_log_are_apart_and_an_unfinished_one_is_named(tmp_path):
    second = PERPLEXITY.replace("m-Q4_K", "m-Q2_K").replace("6.7983 +/-", "9.5 +/-").replace("n_ctx=512", "n_ctx=2048")
    cut = (
        LOADED.replace("m-Q4_K", "m-Q1")
        + "perplexity: calculating perplexity over 200 chunks, n_ctx=512, batch_size=1, n_seq=1\n[1]4.3,"
    )
    file_results = parse(tmp_path, "all.log", PERPLEXITY + second + cut)
    assert [(row["declared_model"], row["value"], row["seq_len"]) for row in file_results.rows] == [
        ("models/m-Q4_K.gguf", 6.7983, 512),
        ("models/m-Q2_K.gguf", 9.5, 2048),
    ]
    assert file_results.left_out == ("line 12: a run without a final number: it did not end, or the log is cut off",)
    assert parse(tmp_path, "cut.log", cut).rows == ()


def test_winogrande_is_a_fraction_and_of_fewer_sentences_a_limited_one(tmp_path):
    text = LOADED + "Final Winogrande score(1267 tasks): 70.5000 +/- 1.2500\n"
    (row,) = parse(tmp_path, "w.log", text).rows
    assert (row["task"], row["metric"], row["value"], row["stderr"], row["sample_limit"]) == (
        "winogrande",
        "acc",
        0.705,
        0.0125,
        None,
    )
    (row,) = parse(tmp_path, "w.log", text.replace("1267", "400")).rows
    assert (row["n_samples"], row["sample_limit"]) == (400, 400.0)


@pytest.mark.parametrize(
    "text",
    [
        "Final estimate: PPL = nan +/- nan\n",
        "Final estimate: PPL = inf\n",
        "Mean    KLD:\nMean PPL(Q) :\nSame top p: %\nFinal estimate: PPL = 1.5 +/- \n",
        "calculating perplexity over 999999999999 chunks, n_ctx=99999999999\nFinal estimate: PPL = 2.5\n",
        "llama_model_loader: loaded meta data with " + "x" * 5000 + "\nFinal estimate: PPL = 2.5 +/- 1\n",
    ],
)
def test_malformed_lines_of_llama_perplexity_cost_no_more_than_themselves(tmp_path, text):
    rows = parse(tmp_path, "x.log", text).rows
    assert len(rows) == 1
    table_of(rows)


def test_perplexities_under_a_name_have_it_and_no_tool(tmp_path):
    text = "wikitext2 perplexity: 6.19\nc4 perplexity: 7.90\nFinal ppl = 5.5\n[INFO] ptb ppl: nan\n"
    file_results = parse(tmp_path, "eval.log", text)
    assert [(row["harness"], row["dataset"], row["subset"], row["value"]) for row in file_results.rows] == [
        ("log", "wikitext2", None, 6.19),
        ("log", "c4", None, 7.9),
        ("log", None, "final", 5.5),
        ("log", "ptb", None, None),
    ]
    named = parse(tmp_path, "sparsegpt.log", "Dataset: ptb\nPerplexity: 9.5\nc4 perplexity: 7.5\n").rows
    assert [(row["harness"], row["dataset"], row["value"]) for row in named] == [
        ("sparsegpt", "ptb", 9.5),
        ("sparsegpt", "c4", 7.5),
    ]
    assert {row["harness"] for row in parse(tmp_path, "a.log", "Perplexity: 9.5\n").rows} == {"log"}


# As lm_eval.utils.make_table prints it, with the line that lm_eval.__main__ prints before.
RUN = "hf (pretrained=org/m,dtype=float16), gen_kwargs: (None), limit: None, num_fewshot: 10, batch_size: auto (32)\n"
TABLE = """\
|     Tasks      |Version|     Filter     |n-shot|  Metric   |   |Value |   |Stderr|
|----------------|------:|----------------|-----:|-----------|---|-----:|---|------|
|hellaswag       |      1|none            |    10|acc        |↑  |0.7142|±  |0.0045|
|                |       |none            |    10|acc_norm   |↑  |0.8819|±  |0.0032|
|gsm8k           |      3|flexible-extract|     5|exact_match|↑  |0.0500|±  |   N/A|
|wikitext        |      2|none            |     0|word_perplexity|↓  |12.5000|±  |   N/A|
|mmlu            |      2|none            |      |acc        |↑  |0.2500|±  |0.0040|
| - humanities   |      2|none            |      |acc        |↑  |0.2400|±  |0.0060|
"""
GROUPS = """\
|Groups|Version|Filter|n-shot|Metric|   |Value|   |Stderr|
|------|------:|------|------|------|---|----:|---|-----:|
|mmlu  |      2|none  |      |acc   |↑  |0.2500|±  |0.0040|
"""


def test_a_printed_table_of_lm_eval_is_read_as_its_json_is(tmp_path):
    file_results = parse(tmp_path, "eval.md", f"# Notes\n\n```\n{RUN}{TABLE}```\n")
    printed = TABLE.splitlines()[2:]
    assert len(file_results.rows) + len(file_results.left_out) == len(printed)
    columns = ("declared_model", "task", "metric", "filter", "value", "stderr", "n_shot", "higher_is_better")
    assert [tuple(row[name] for name in columns) for row in file_results.rows] == [
        ("org/m", "hellaswag", "acc", None, 0.7142, 0.0045, 10, True),
        ("org/m", "hellaswag", "acc_norm", None, 0.8819, 0.0032, 10, True),
        ("org/m", "gsm8k", "exact_match", "flexible-extract", 0.05, None, 5, True),
        ("org/m", "wikitext", "word_perplexity", None, 12.5, None, 0, False),
        ("org/m", "mmlu", "acc", None, 0.25, 0.004, None, True),
        ("org/m", "humanities", "acc", None, 0.24, 0.006, None, True),
    ]
    assert {(row["harness"], row["notes"][0]["code"], row["sample_limit"]) for row in file_results.rows} == {
        ("lm_eval", "rounded", None)
    }
    table_of(file_results.rows)


def test_groups_of_a_printed_table_are_groups_in_both_and_count_once(tmp_path):
    file_results = parse(tmp_path, "eval.txt", RUN + TABLE + "\n" + GROUPS)
    assert [(row["task"], row["value"]) for row in file_results.rows if row["is_group"]] == [("mmlu", 0.25)]
    assert file_results.left_out == ("org/m mmlu acc: stated 2 times, the last counts",)


def test_older_tables_and_several_runs_in_one_page(tmp_path):
    old = "hf (pretrained=org/b,peft=org/ad), limit: 40, num_fewshot: 25, batch_size: 1\n"
    old += "|    Tasks    |Version|Filter| Metric |Value |   |Stderr|\n|---|---|---|---|---:|---|---:|\n"
    old += "|arc_challenge|Yaml   |none  |acc     |0.6058|±  |0.0143|\n"
    third = "\n| Task |Version|Metric|Value|   |Stderr|\n|---|---|---|---:|---|---:|\n"
    third += "|hendrycksTest-law|0|acc|0.31|±|0.01|\n|cut|0|acc|\n"
    file_results = parse(tmp_path, "all.md", RUN + TABLE + old + third)
    tail = file_results.rows[6:]
    columns = ("declared_model", "adapter", "task", "value", "n_shot", "sample_limit", "suite")
    assert [tuple(row[name] for name in columns) for row in tail] == [
        ("org/b", "org/ad", "arc_challenge", 0.6058, 25, 40.0, "fewshot"),
        (None, None, "mmlu_law", 0.31, None, None, "zeroshot"),
    ]
    assert file_results.left_out == ("line 18: another number of cells than the header has",)


def test_a_log_of_a_tool_that_also_prints_a_table_gives_both(tmp_path):
    rows = parse(tmp_path, "wanda.log", "wikitext perplexity 7.25\n" + RUN + TABLE).rows
    assert [(row["harness"], row["metric"]) for row in rows][:2] == [("wanda", "perplexity"), ("lm_eval", "acc")]


# llama-bench, as its printers write it: tools/llama-bench/llama-bench.cpp of llama.cpp.
FIELDS = {
    "build_commit": "ab12cd3",
    "build_number": "1234",
    "cpu_info": "EPYC",
    "gpu_info": "H100",
    "backends": "CUDA",
    "model_filename": "m.gguf",
    "model_type": "llama 7B Q4_0",
    "n_batch": "2048",
    "n_ubatch": "512",
    "n_threads": "8",
    "type_k": "f16",
    "type_v": "f16",
    "n_gpu_layers": "99",
    "flash_attn": "0",
    "n_prompt": "512",
    "n_gen": "0",
    "n_depth": "0",
    "test_time": "2026-01-31T12:00:00Z",
    "avg_ns": "100",
    "stddev_ns": "1",
    "avg_ts": "900.500000",
    "stddev_ts": "1.5",
}
TESTS = [
    FIELDS,
    FIELDS | {"n_prompt": "0", "n_gen": "128", "avg_ts": "80.25"},
    FIELDS | {"n_gpu_layers": "0", "n_depth": "4096", "avg_ts": "30.5"},
]
SAME = "batch=2048,ubatch=512,threads=8,ngl=99,type_k=f16,type_v=f16,fa=0,backend=CUDA"
EXPECTED = [
    ("prefill_tokens_per_sec", 900.5, f"prompt=512,generated=0,{SAME}"),
    ("decode_tokens_per_sec", 80.25, f"prompt=0,generated=128,{SAME}"),
    ("prefill_tokens_per_sec", 30.5, f"prompt=512,generated=0,depth=4096,{SAME.replace('ngl=99', 'ngl=0')}"),
]


def bench_csv():
    lines = [",".join(FIELDS), *(",".join(f'"{value}"' for value in test.values()) for test in TESTS)]
    return "\n".join(lines) + "\n"


def bench_sql():
    create = "CREATE TABLE IF NOT EXISTS llama_bench (\n" + ",\n".join(f"  {name} TEXT" for name in FIELDS) + "\n);\n\n"
    names = ", ".join(FIELDS)
    inserts = ["INSERT INTO llama_bench (" + names + ") VALUES ('" + "', '".join(test.values()) + "');\n" for test in TESTS]
    return create + "".join(inserts)


def bench_json():
    texts = (
        "cpu_info",
        "gpu_info",
        "backends",
        "model_filename",
        "model_type",
        "build_commit",
        "type_k",
        "type_v",
        "test_time",
    )
    flags = {"flash_attn": False}
    return [{name: value if name in texts else flags.get(name, float(value)) for name, value in test.items()} for test in TESTS]


@pytest.mark.parametrize(("name", "content"), [("b.csv", bench_csv()), ("b.sql", bench_sql()), ("b.txt", bench_sql())])
def test_llama_bench_in_csv_and_sql(tmp_path, name, content):
    file_results = parse(tmp_path, name, content)
    assert [(row["metric"], row["value"], row["subset"]) for row in file_results.rows] == EXPECTED
    assert {(row["declared_model"], row["harness_version"], str(row["run_at"])) for row in file_results.rows} == {
        ("m.gguf", "ab12cd3", "2026-01-31 12:00:00+00:00")
    }
    assert [row["hardware"] for row in file_results.rows] == ["H100", "H100", "EPYC"]
    assert file_results.left_out == ()
    table_of(file_results.rows)


def test_llama_bench_in_json_gives_the_same(tmp_path):
    tests = [test | {key: int(test[key]) for key in ("n_prompt", "n_gen", "n_depth")} for test in bench_json()]
    assert [(row["metric"], row["value"], row["subset"]) for row in parse(tmp_path, "b.json", tests).rows] == EXPECTED
    (line,) = parse(tmp_path, "c.json", [tests[0] | {"n_prompt": None}]).left_out
    assert line == "[0].avg_ts: n_prompt and n_gen must be whole numbers"


# Columns that later versions add (get_fields), with the tool's defaults and with other values.
LATER = {
    "split_mode": ("layer", "row", "sm=row"),
    "main_gpu": (0, 1, "main_gpu=1"),
    "no_kv_offload": (False, True, "nkvo=1"),
    "use_mmap": (True, False, "mmap=0"),
    "tensor_split": ("0.00", "0.50/0.50", "ts=0.50/0.50"),
    "n_cpu_moe": (0, 8, "n_cpu_moe=8"),
    "no_op_offload": (0, 1, "nopo=1"),
    "embeddings": (False, True, "embd=1"),
    "devices": ("auto", "CUDA0,CUDA1", 'dev="CUDA0,CUDA1"'),
}


@pytest.mark.parametrize("field", LATER)
def test_a_setting_of_llama_bench_is_part_of_the_measure_unless_it_is_the_default(tmp_path, field):
    usual, other, text = LATER[field]
    test = {"avg_ts": 900.5, "n_prompt": 512, "n_gen": 0}
    rows = parse(tmp_path, "b.json", [test, test | {field: usual}, test | {field: other}]).rows
    assert [row["subset"] for row in rows] == ["prompt=512,generated=0"] * 2 + [f"prompt=512,generated=0,{text}"]
    cells = {"true": "1", "false": "0"}
    line = ",".join(str(value) for value in test.values())
    texts = [json.dumps(cells.get(str(value).lower(), str(value))) for value in (usual, other)]
    text = f"{','.join(test)},{field}\n" + "".join(f"{line},{value}\n" for value in texts)
    assert [row["subset"] for row in parse(tmp_path, "b.csv", text).rows] == [row["subset"] for row in rows[1:]]


def test_older_files_of_llama_bench_say_what_it_was_built_with(tmp_path):
    test = {
        "avg_ts": 900.5,
        "n_prompt": 512,
        "n_gen": 0,
        "cuda": True,
        "metal": False,
        "blas": True,
        "gpu_info": "A",
        "cpu_info": "B",
    }
    rows = parse(tmp_path, "b.json", [test | {"n_gpu_layers": layers} for layers in (0, 99)]).rows
    assert [(row["subset"].partition("ngl=")[2], row["hardware"]) for row in rows] == [
        ("0,backend=cuda+blas", "B"),
        ("99,backend=cuda+blas", "A"),
    ]


PRINTED = """\
| model                          |       size |     params | backend    | ngl |            test |                  t/s |
| ------------------------------ | ---------: | ---------: | ---------- | --: | --------------: | -------------------: |
| llama 7B Q4_0                  |   3.56 GiB |     6.74 B | CUDA       |  99 |           pp512 |       2500.25 ± 12.3 |
| llama 7B Q4_0                  |   3.56 GiB |     6.74 B | CUDA       |  99 |  tg128 @ d4096 |         80.50 ± 0.10 |
| llama 7B Q4_0                  |   3.56 GiB |     6.74 B | CUDA       |  99 |     pp512+tg128 |        400.00 ± 0.10 |
| llama 7B Q4_0                  |   3.56 GiB |     6.74 B | CUDA       |  99 |           warm  |        400.00 ± 0.10 |
| llama 7B Q4_0                  |   3.56 GiB |

build: ab12cd3 (1234)
"""


def test_the_table_that_llama_bench_prints(tmp_path):
    file_results = parse(tmp_path, "bench.md", PRINTED + PRINTED.replace("7B", "13B").replace("ab12cd3", "ffff"))
    columns = ("declared_model", "metric", "value", "subset", "harness_version")
    assert [tuple(row[name] for name in columns) for row in file_results.rows] == [
        (model, metric, value, f"prompt={prompt},generated={generated},{more}backend=CUDA,ngl=99", build)
        for model, build in (("llama 7B Q4_0", "ab12cd3"), ("llama 13B Q4_0", "ffff"))
        for metric, value, prompt, generated, more in (
            ("prefill_tokens_per_sec", 2500.25, 512, 0, ""),
            ("decode_tokens_per_sec", 80.5, 0, 128, "depth=4096,"),
            ("total_tokens_per_sec", 400.0, 512, 128, ""),
        )
    ]
    assert file_results.left_out == tuple(
        f"line {number}: {text}"
        for number, text in (
            (6, "no test and rate, but warm and 400.00 ± 0.10"),
            (7, "another number of cells than the header has"),
            (15, "no test and rate, but warm and 400.00 ± 0.10"),
            (16, "another number of cells than the header has"),
        )
    )
    table_of(file_results.rows)


@pytest.mark.parametrize(
    "text",
    [
        "|model|" * 20_000,
        "|Tasks|Version|Metric|Value|\n" * 20_000,
        "|" * 200_000,
        "INSERT INTO llama_bench (build_commit, " * 20_000,
        "Mean PPL(" * 10_000,
        "|Tasks|Version|" + "Metric" * 10_000,
        "x, limit: 0, num_fewshot: " * 20_000,
        " KLD:" * 20_000,
    ],
)
def test_hostile_text_is_searched_in_linear_time(tmp_path, text):
    (tmp_path / "x.md").write_text(text)
    start = time.process_time()
    document = read_document(tmp_path / "x.md", "x.md")[1]
    if found := recognise(document, tmp_path / "x.md"):
        found.parse(document, tmp_path / "x.md")
    resembles_results(document)
    assert time.process_time() - start < 5  # 0.5 s; quadratic time is minutes


# Tables


@pytest.mark.parametrize(
    ("text", "left_out"),
    [
        ("Model,TASK,Metric,Value\na,piqa,acc,0.5\n", ()),
        (",model,task,metric,value\n0,a,piqa,acc,0.5\n", ()),
        ("Unnamed: 0,model,task,metric,value\n0,a,piqa,acc,0.5\n", ()),
        ("model,task,metric,value,note,seed\na,piqa,acc,0.5,x,1\n", ("columns that are not read: note, seed",)),
        ("model;task;metric;value\na;piqa;acc;0.5\n", ()),
        ("\ufeffmodel,task,metric,value\na,piqa,acc,0.5\n", ()),
        ("Model,piqa/acc,comment\na,0.5,x\n", ("columns that are not read: comment",)),
    ],
)
def test_headers_in_another_case_and_columns_that_are_not_ours(tmp_path, text, left_out):
    file_results = parse(tmp_path, "a.csv", text)
    assert [(row["declared_model"], row["task"], row["metric"], row["value"]) for row in file_results.rows] == [
        ("a", "piqa", "acc", 0.5)
    ]
    assert file_results.left_out == left_out


def test_numbers_with_a_decimal_comma_are_named_and_not_guessed(tmp_path):
    file_results = parse(tmp_path, "a.csv", "model;task;metric;value\na;piqa;acc;0,5\nb;piqa;acc;1.000\n")
    assert [row["value"] for row in file_results.rows] == [1.0]
    assert file_results.left_out == ("line 2: must be a number, not '0,5'",)


def test_a_table_that_is_not_utf8_or_has_a_column_twice_is_refused_in_one_line(tmp_path):
    (tmp_path / "a.csv").write_bytes("model,task,metric,value\nGüte,piqa,acc,0.5\n".encode("cp1252"))
    document = read_document(tmp_path / "a.csv", "a.csv")[1]
    with pytest.raises(InputError, match="line 2 is not UTF-8 text; save the table as UTF-8"):
        recognise(document, tmp_path / "a.csv").parse(document, tmp_path / "a.csv")
    with pytest.raises(InputError, match="two columns are called 'value'"):
        parse(tmp_path, "b.csv", "model,task,metric,value,Value\na,piqa,acc,0.5,0.6\n")


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        (
            "scores.csv",
            "model,benchmark,accuracy\na,piqa,0.5\n",
            "looks like a table of results, but has no column metric, task, value",
        ),
        ("train.log", "step 1\neval accuracy: 0.53\n", r"line 2 looks like a result \(accuracy: 0\), but in no known form"),
    ],
)
def test_what_looks_like_results_and_is_none_is_one_line_wherever_it_lies(tmp_path, name, text, line):
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(safetensors_bytes({"w": entry("F32", [2, 3], 0, 24)}, bytes(24)))
    (folder / name).write_text(text)
    (folder / "notes.md").write_text("# A page\nnothing here\n")
    events = []
    lh.ingest(folder, warehouse=tmp_path / "w", on_event=events.append)
    (event,) = (event for event in events if event.where.endswith(name))
    assert re.match(line, event.what)
    assert not any(event.where.endswith("notes.md") for event in events)


@pytest.mark.parametrize("name", ["README.md", "model_card.md", "LICENSE", "eval_run_1.5.py", "training.yaml"])
def test_pages_that_lie_beside_models_are_not_looked_at(name):
    assert not may_be_result(Path(name))
