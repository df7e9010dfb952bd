"""What names declare and what they do not, and the consistency of the rules file."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerhouse.ingest.declarations.declare import Declaration, declare, load_rules

STUDY = Path(__file__).parents[2] / "shared/data/llama3-8b"
DOCUMENT = tomllib.loads((Path(__file__).parents[1] / "ingest/declarations/declarations.toml").read_text("utf-8"))
NOTHING = Declaration()


@pytest.mark.parametrize(
    ("model_id", "method", "ratio", "removed_layers", "tags"),
    [
        ("baselines/Wanda_2000", "Wanda", 0.2, None, ()),
        ("results/HGSP_2000_finetuned", "HGSP", 0.2, None, ("finetuned",)),
        ("LLM-Pruner_1937", "LLM-Pruner", 0.1937, None, ()),
        ("llm_pruner-1937", "LLM-Pruner", 0.1937, None, ()),
        ("SliceGPT_2000", "SliceGPT", 0.2, None, ()),
        ("slicegpt_0000", "SliceGPT", 0.0, None, ()),
        ("Wanda_50", "Wanda", 0.5, None, ()),
        ("x-wanda-0.5", "Wanda", 0.5, None, ()),
        ("Llama-2-7b-wanda-0.5", "Wanda", 0.5, None, ()),
        ("Qwen2.5-0.5B-wanda_0.25", "Wanda", 0.25, None, ()),
        ("wanda-unstructured-0.5", "Wanda", 0.5, None, ("unstructured",)),
        ("wanda_sp_2000", "Wanda-SP", 0.2, None, ()),
        ("Wanda++_5000", "Wanda++", 0.5, None, ()),
        ("Wanda+LoRA", "Wanda", None, None, ("LoRA",)),
        ("Wanda_2000_128", "Wanda", 0.2, None, ("128",)),
        ("Wanda_2000_50_0.5", "Wanda", 0.2, None, ("50", "0.5")),
        ("ShortGPT_remove_7", "ShortGPT", None, 7, ()),
        ("ShortGPT-Remove-7", "ShortGPT", None, 7, ()),
        ("ShortGPT_remove7", "ShortGPT", None, 7, ()),
        ("ShortGPT_remove_7_2000", "ShortGPT", None, 7, ("2000",)),
        ("ShortGPT_2000_remove_7_ft", "ShortGPT", 0.2, 7, ("ft",)),
        ("Sheared-LLaMA-1.3B", "Sheared-LLaMA", None, None, ("1.3B",)),
        ("Llama-3.1-Minitron-4B-Width-Base", "Minitron", None, None, ("4B", "Width", "Base")),
        ("Wanda_2000_GPTQ", "Wanda", 0.2, None, ("GPTQ",)),
        ("TheBloke/Llama-2-7B-GPTQ-4bit-128g", "GPTQ", None, None, ("4bit", "128g")),
        ("MyMethod_2000", "MyMethod", 0.2, None, ()),
        ("My-Method_2000_ft", "My-Method", 0.2, None, ("ft",)),
        ("MyMethod_remove_7_ft", "MyMethod", None, 7, ("ft",)),
        ("MyWanda_2000", "MyWanda", 0.2, None, ()),
        ("taylor_only_2000", "taylor_only", 0.2, None, ()),
        ("Taylor_only_20", "taylor_only", 0.2, None, ()),
        ("Taylor_only_20_c4", "taylor_only", 0.2, None, ("c4",)),
        ("Taylor_2nd_20", "taylor_2nd", 0.2, None, ()),
        ("SliceGPT_PCA_2000", "SliceGPT_PCA", 0.2, None, ()),
        ("my_method_0.2", "my_method", 0.2, None, ()),
        ("My_Method_2000", "my_method", 0.2, None, ()),
        ("a_b_c_d_2000_ft", "a_b_c_d", 0.2, None, ("ft",)),
        ("my_method_remove_7", "my_method", None, 7, ()),
        ("my_method-v2_0.25", "my_method-v2", 0.25, None, ()),
        ("optimus_2000", "optimus", 0.2, None, ()),
        ("tiny_0.25", None, 0.25, None, ()),
        ("tiny-0.25_ft", None, 0.25, None, ("ft",)),
        ("my-model-0.5", None, 0.5, None, ()),
        ("Llama-3-8B-Instruct_0.2", None, 0.2, None, ()),
        ("Llama-3-8B-Instruct_0.2.pt", None, 0.2, None, ()),
        ("Llama-3-8B-0.2-ft", None, 0.2, None, ("ft",)),
        ("Qwen2.5-0.5B-Instruct-0.5", None, 0.5, None, ()),
        ("gpt2_0.25", None, 0.25, None, ()),
        ("Llama-3-8B_remove_7_ft", None, None, 7, ("ft",)),
        ("Qwen2.5-0.5B_remove_4", None, None, 4, ()),
    ],
)
def test_what_a_name_declares(model_id, method, ratio, removed_layers, tags):
    assert declare(model_id) == Declaration(method, ratio, removed_layers, dict.fromkeys(tags, ""))


@pytest.mark.parametrize(
    "model_id",
    [
        *(
            "baselines/Llama-3-8B-Instruct",
            "meta-llama/Meta-Llama-3-8B",
            "Llama-2-7b-hf",
            "llama3_8b",
            "TinyLlama-1.1B-Chat-v0.3",
        ),
        *(
            "Qwen2.5-0.5B",
            "Qwen2.5-0.5B-Instruct",
            "Qwen2.5-0.5",
            "Mistral-7B-Instruct-v0.1",
            "Mistral-7B-Instruct-2407",
        ),
        *(
            "Mistral-7B_2407",
            "Mixtral-8x7B",
            "gemma-2-2b-it",
            "phi-1_5",
            "Phi-3-mini-4k-instruct",
            "opt-125m",
            "gpt2-medium",
        ),
        *("opt_2000", "pythia-70m-deduped_2000", "my-llama_2000", "unnamed-7B_2000", "Llama-3-8B_50"),
        *(
            "123",
            "007",
            "2024-01-01",
            "1e5",
            "null",
            "a|b",
            "=x",
            "it''s; x",
            "",
            "/",
            "名前",
            "0.5",
            "0.5_",
            "_",
            "2000",
            "50",
        ),
        *(
            "foo_50",
            "foo-2000",
            "foo_20000",
            "foo_1.5",
            "foo_bar_50",
            "foo_bar_20000",
            "foo_bar-2000",
            "block_size_2048",
            "my_model_2000",
            "pruned_model_2000",
            "my_llama_2000",
            "Llama-3-8B_chat_2000",
            "train_seed_0.5",
            "step_2000",
            "run_2024",
            "model_2000",
            "x_lr_0.001",
        ),
    ],
)
def test_names_that_declare_nothing(model_id):
    assert declare(model_id) == NOTHING


@pytest.mark.parametrize(
    ("model_id", "tags"),
    [
        ("Wanda_128", ("128",)),
        ("Wanda_20000", ("20000",)),
        ("Wanda_1.5", ("1.5",)),
        ("Wanda-2:4", ("2:4",)),
        ("Wanda_seed_42", ("seed", "42")),
        ("Wanda_128_2000", ("128", "2000")),
        ("Wanda_c4_50", ("c4", "50")),
        ("Wanda_lr_0.001", ("lr", "0.001")),
        ("Wanda_٢٠", ("٢٠",)),
        ("Wanda_remove_99999999999", ("remove", "99999999999")),
        ("Wanda_remove_2147483648", ("remove", "2147483648")),
    ],
)
def test_numbers_that_are_not_ratios_stay_tags(model_id, tags):
    assert declare(model_id) == Declaration("Wanda", None, None, dict.fromkeys(tags, ""))


def test_the_largest_layer_count_that_the_column_holds():
    assert declare("ShortGPT_remove_2147483647").removed_layers == 2147483647


def test_a_training_checkpoint_is_declared_by_its_folder():
    assert declare("HGSP_2000_finetuned/checkpoint-500") == Declaration(
        "HGSP", 0.2, None, {"finetuned": "", "checkpoint": "500"}
    )
    assert declare("Llama-3-8B/checkpoint-1") == Declaration(tags={"checkpoint": "1"})
    assert declare("checkpoint-5") == Declaration(tags={"checkpoint": "5"})
    assert declare("Wanda_2000/checkpoint") == NOTHING


def test_only_the_last_component_counts():
    assert declare("Wanda_2000/Llama-3-8B-Instruct") == NOTHING
    assert declare("Wanda_2000/") == Declaration("Wanda", 0.2)


def test_ratios_are_exact_divisions():
    assert [declare(f"Wanda_{number:04}").ratio for number in range(10000)] == [number / 10000 for number in range(10000)]
    assert [declare(f"Wanda_{number:02}").ratio for number in range(100)] == [number / 100 for number in range(100)]


METHODS = DOCUMENT["pruners"] | DOCUMENT["quantisers"]


@pytest.mark.parametrize("method", METHODS)
def test_every_spelling_in_the_file_is_read(method):
    for spelling in (method, *METHODS[method]):
        for text in (
            spelling,
            spelling.lower(),
            spelling.upper(),
            spelling.replace("-", "_"),
            spelling.replace("-", ""),
        ):
            declaration = declare(f"{text}_2500")
            assert declaration.method == method, text
            assert (declaration.ratio, declaration.tags) == (
                (0.25, {}) if method in DOCUMENT["pruners"] else (None, {"2500": ""})
            )
            assert declare(f"Llama-3-8B-{text}").method == method


@pytest.mark.parametrize("family", DOCUMENT["names"]["families"])
def test_no_family_in_the_file_is_a_method(family):
    assert family == family.lower()
    for name in (family, f"{family.title()}-3_2000", f"{family}_2000", f"{family}2.5-0.5B", f"my_{family}_2000"):
        assert declare(name) == NOTHING


def test_the_rules_file_has_no_key_that_nothing_reads_and_no_word_twice():
    assert set(DOCUMENT) == {"pruners", "quantisers", "ratios", "names"}
    assert set(DOCUMENT["names"]) == {
        "removed_layers",
        "size",
        "other_numbers",
        "no_methods",
        "sizes",
        "file_endings",
        "families",
    }
    assert [set(rule) for rule in DOCUMENT["ratios"]] == [{"pattern", "divisor", "anywhere", "names_method", "names_words"}] * 3
    for name in ("other_numbers", "no_methods", "sizes", "file_endings", "families"):
        words = DOCUMENT["names"][name]
        assert words == [word.lower() for word in words]
        assert len(words) == len(set(words)), name
    assert set(load_rules().spellings.values()) == set(METHODS)


PIECES = st.sampled_from(
    [
        *(
            "Wanda",
            "LLM-Pruner",
            "GPTQ",
            "Llama",
            "Qwen2.5",
            "7B",
            "0.5B",
            "0.2",
            "0.",
            "2000",
            "50",
            "remove",
            "remove7",
        ),
        *("checkpoint-1", "/", "_", "-", "+", " ", ".", ".pt", "lr", "²", "٢٠", "名", "\n", "\0", "'", "\ud800"),
    ]
)


@given(st.text() | st.lists(PIECES, max_size=12).map("".join) | st.lists(PIECES, max_size=8).map("_".join))
def test_any_text_gives_a_valid_declaration(model_id):
    declaration = declare(model_id)
    assert declaration.ratio is None or 0 <= declaration.ratio <= 1
    assert declaration.removed_layers is None or 0 <= declaration.removed_layers < 2**31
    assert declaration.method is None or declaration.method
    assert "" not in declaration.tags


@pytest.mark.skipif(not STUDY.is_dir(), reason="the shared study is not here")
def test_the_published_study():
    names = sorted(path.relative_to(STUDY).as_posix() for path in STUDY.glob("*/*") if path.is_dir())
    assert {name: declare(name) for name in names} == {
        "baselines/Llama-3-8B-Instruct": NOTHING,
        "baselines/ShortGPT_remove_7": Declaration("ShortGPT", None, 7),
        "baselines/SliceGPT_2000": Declaration("SliceGPT", 0.2),
        "results/HGSP_2000": Declaration("HGSP", 0.2),
        "results/HGSP_2000_finetuned": Declaration("HGSP", 0.2, None, {"finetuned": ""}),
        "results/LLM-Pruner_1937": Declaration("LLM-Pruner", 0.1937),
        "results/ShortGPT_remove_4": Declaration("ShortGPT", None, 4),
    }
