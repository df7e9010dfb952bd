"""Analyses of scripts are read to the integer, and a key that is missing or wrong is named."""

from __future__ import annotations

import copy
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerhouse.errors import InputError
from layerhouse.ingest.study.json_reader import MAX_LAYERS
from layerhouse.ingest.study.structures import (
    Comparison,
    Layer,
    Structure,
    read_comparison,
    read_structure,
)
from layerhouse.tests.study_files import (
    EMPTY,
    FULL,
    HALF,
    base,
    comparison,
    layer,
    structure,
)

ABSENT = object()
COUNT = "expected an integer that is not negative, found"
INT32_COUNT = "expected an integer from 0 to 2147483647, found"


def change(document, key, value):
    """A copy with the value at a key such as `layers[0].mlp.total` replaced, or taken out where it is ABSENT."""
    document = copy.deepcopy(document)
    *steps, last = key.replace("[", ".[").split(".")
    place = document
    for step in steps:
        place = place[int(step[1:-1])] if step.startswith("[") else place[step]
    last = int(last[1:-1]) if last.startswith("[") else last
    if value is ABSENT:
        del place[last]
    else:
        place[last] = value
    return document


def refusal(read, document):
    with pytest.raises(InputError) as caught:
        read(document, "A/x.json")
    assert caught.value.where == "A/x.json"
    assert "\n" not in str(caught.value)
    return caught.value.what


# One model


def test_everything_that_a_file_says_is_read():
    document = structure(FULL, EMPTY)
    document["layers"][0]["attention"] |= {"k_proj": 0, "num_heads": 8, "num_kv_heads": 2, "head_dim": 32}
    read = read_structure(document, "x.json")
    assert read == Structure(
        name="Pruned",
        params=6048,
        layer_params=1048,
        num_layers=2,
        embedding_params=2000,
        lm_head_params=2000,
        stated_layer_params=1048,
        stated_num_layers=2,
        layers=(
            Layer(
                index=0,
                params=1024,
                attention_params=400,
                mlp_params=600,
                norm_params=24,
                role_params={"q_proj": 400, "k_proj": 0, "up_proj": 600},
                num_heads=8,
                num_kv_heads=2,
                head_dim=32,
                intermediate_size=6,
                attention_type="LlamaAttention",
                mlp_type="LlamaMLP",
            ),
            Layer(
                index=1,
                params=24,
                attention_params=0,
                mlp_params=0,
                norm_params=24,
                role_params={"q_proj": 0, "up_proj": 0},
                intermediate_size=0,
                attention_type="ZeroAttention",
                mlp_type="ZeroMLP",
            ),
        ),
    )
    assert [item.is_zero_layer for item in read.layers] == [False, True]
    assert [item.other_params for item in read.layers] == [0, 0]


def test_what_a_file_need_not_say_is_null():
    read = read_structure({"total_params": 7, "layers": [{"layer_idx": 3, "total": 5}]}, "x.json")
    assert read == Structure(name=None, params=7, layer_params=5, num_layers=1, layers=(Layer(3, 5, None, None),))
    assert read.layers[0].is_zero_layer is None
    assert read.layers[0].other_params is None


def test_a_model_may_have_no_layers():
    assert read_structure(structure(), "x.json").layer_params == 0
    read = read_structure({"total_params": 7, "layers": []}, "x.json")
    assert (read.num_layers, read.layer_params, read.layers) == (0, None, ())


def test_layers_may_come_in_any_order_and_with_gaps():
    document = structure(FULL, HALF, FULL)
    document["layers"] = [layer(7, *FULL), layer(2, *HALF)]
    assert [item.index for item in read_structure(document, "x.json").layers] == [2, 7]


def test_parts_that_exceed_their_layer_leave_no_rest():
    document = change(structure(FULL), "layers[0].total", 500)
    assert read_structure(document, "x.json").layers[0].other_params is None


@pytest.mark.parametrize(("value", "count"), [(7, 7), (7.0, 7), (0, 0), (-0.0, 0), (2.0**52, 2**52), (2**63 - 1, 2**63 - 1)])
def test_counts(value, count):
    assert read_structure({"total_params": value, "layers": []}, "x.json").params == count


@pytest.mark.parametrize(
    ("value", "actual"),
    [
        (True, "True"),
        (-1, "-1"),
        (1.5, "1.5"),
        ("7", "'7'"),
        ([7], "list"),
        ({}, "dict"),
        (math.nan, "nan"),
        (math.inf, "inf"),
        (1e300, "1e+300"),
        (2.0**53, "9007199254740992.0"),
        (2**63, "9223372036854775808"),
        (10**100, "1" + 39 * "0"),
    ],
)
def test_no_counts(value, actual):
    assert refusal(read_structure, {"total_params": value, "layers": []}) == f"total_params: {COUNT} {actual}"


@pytest.mark.parametrize(
    "key",
    ["total_params", "layers", "layers[1].layer_idx", "layers[1].total", "layers[1].attention.total", "layers[1].mlp.total"],
)
@pytest.mark.parametrize("value", [ABSENT, None])
def test_a_missing_key_is_named(key, value):
    assert refusal(read_structure, change(structure(FULL, HALF), key, value)) == f"{key}: missing"


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("total_params", COUNT),
        ("embedding_params", COUNT),
        ("lm_head_params", COUNT),
        ("layer_summary.total_layer_params", COUNT),
        ("layer_summary.num_layers", COUNT),
        ("layers[1].layer_idx", INT32_COUNT),
        ("layers[1].total", COUNT),
        ("layers[1].norm", COUNT),
        ("layers[1].attention.total", COUNT),
        ("layers[1].attention.q_proj", COUNT),
        ("layers[1].mlp.intermediate_size", INT32_COUNT),
    ],
)
def test_a_count_of_the_wrong_type_is_named(key, expected):
    assert refusal(read_structure, change(structure(FULL, HALF), key, -1.5)) == f"{key}: {expected} -1.5"


@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        ("layers", {}, "layers: expected a list, found dict"),
        ("layers[0]", 7, "layers[0]: expected an object, found 7"),
        ("layers[0].attention", [], "layers[0].attention: expected an object, found list"),
        ("layers[0].mlp", "x", "layers[0].mlp: expected an object, found 'x'"),
        ("layers[0].attention.type", 1, "layers[0].attention.type: expected a text, found 1"),
        ("layers[0].attention.num_heads", 2**31, f"layers[0].attention.num_heads: {INT32_COUNT} 2147483648"),
        ("layers[0].attention.num_kv_heads", "8", f"layers[0].attention.num_kv_heads: {INT32_COUNT} '8'"),
        ("layers[0].attention.head_dim", 0.5, f"layers[0].attention.head_dim: {INT32_COUNT} 0.5"),
        ("layer_summary", [], "layer_summary: expected an object, found list"),
        ("model_name", 7, "model_name: expected a text, found 7"),
    ],
)
def test_a_value_of_the_wrong_kind_is_named(key, value, what):
    assert refusal(read_structure, change(structure(FULL, HALF), key, value)) == what


@pytest.mark.parametrize("read", [read_structure, read_comparison])
@pytest.mark.parametrize(("document", "actual"), [([], "list"), (None, "None"), (7, "7")])
def test_a_document_is_an_object(read, document, actual):
    assert refusal(read, document) == f"top level: expected an object, found {actual}"


def test_a_layer_stands_once():
    assert (
        refusal(read_structure, change(structure(FULL, HALF), "layers[1].layer_idx", 0)) == "layers: layer_idx 0 stands twice"
    )


def test_limits():
    huge = change(structure(FULL, FULL), "layers[0].total", 2**63 - 1)
    assert refusal(read_structure, huge) == "layers: limit exceeded: parameters of all layers, at most 2^63 - 1"
    many = {"total_params": 0, "layers": [0] * (MAX_LAYERS + 1)}
    assert refusal(read_structure, many) == "layers: limit exceeded: 100001 layers, at most 100000"
    assert refusal(read_structure, change(structure(FULL), "layers[0].layer_idx", 2**31)).startswith(
        "layers[0].layer_idx: expected"
    )


# Two models side by side


def test_both_sides_of_a_comparison_are_read():
    read = read_comparison(comparison(base(FULL, FULL), structure(HALF)), "x.json")
    assert read == Comparison(
        original=Structure(name="Base", params=7048, layer_params=2048, num_layers=None, layers=(Layer(0, 1024, 400, 600),)),
        pruned=Structure(name="Pruned", params=5524, layer_params=524, num_layers=None, layers=(Layer(0, 524, 200, 300),)),
    )


@pytest.mark.parametrize("place", ["attention", None])
def test_heads_and_widths_stand_inside_the_module_or_beside_it(place):
    document = comparison(base(FULL), structure(HALF))
    heads, width = {"original": 8, "pruned": 4}, {"original": 700, "pruned": 350}
    item = document["layers"][0]
    (item["attention"] if place else item).update({"num_heads": heads, "num_kv_heads": {"original": 2}})
    (item["mlp"] if place else item)["intermediate_size"] = width
    read = read_comparison(document, "x.json")
    sides = [
        (s.layers[0].num_heads, s.layers[0].num_kv_heads, s.layers[0].intermediate_size) for s in (read.original, read.pruned)
    ]
    assert sides == [(8, 2, 700), (4, None, 350)]


def test_a_layer_may_be_listed_for_one_side_alone():
    document = comparison(base(FULL, FULL), structure(FULL, FULL))
    document["layers"][1]["total"] = {"original": 1024, "pruned": None}
    read = read_comparison(document, "x.json")
    assert [len(side.layers) for side in (read.original, read.pruned)] == [2, 1]


@pytest.mark.parametrize("value", [ABSENT, None])
@pytest.mark.parametrize(
    "key", ["total_params", "total_params.original", "total_params.pruned", "layers", "layers[0].layer_idx", "layers[0].total"]
)
def test_a_missing_key_of_a_comparison_is_named(key, value):
    document = comparison(base(FULL), structure(FULL))
    assert refusal(read_comparison, change(document, key, value)) == f"{key}: missing"


@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        ("total_params", 7, "total_params: expected an object, found 7"),
        ("total_params.pruned", True, f"total_params.pruned: {COUNT} True"),
        ("layer_params", [], "layer_params: expected an object, found list"),
        ("layer_params.original", -1, f"layer_params.original: {COUNT} -1"),
        ("original_name", [], "original_name: expected a text, found list"),
        ("pruned_name", 7, "pruned_name: expected a text, found 7"),
        ("layers[0].total", 7, "layers[0].total: expected an object, found 7"),
        ("layers[0].total.original", "7", f"layers[0].total.original: {COUNT} '7'"),
        ("layers[0].attention", 7, "layers[0].attention: expected an object, found 7"),
        ("layers[0].attention.pruned", 0.5, f"layers[0].attention.pruned: {COUNT} 0.5"),
        ("layers[0].mlp.original", {}, f"layers[0].mlp.original: {COUNT} dict"),
        ("layers[0].num_heads", 8, "layers[0].num_heads: expected an object, found 8"),
    ],
)
def test_a_value_of_the_wrong_kind_in_a_comparison_is_named(key, value, what):
    assert refusal(read_comparison, change(comparison(base(FULL), structure(FULL)), key, value)) == what


def test_a_layer_stands_once_in_a_comparison():
    document = change(comparison(base(), structure(FULL, FULL)), "layers[1].layer_idx", 0)
    assert refusal(read_comparison, document) == "layers: layer_idx 0 stands twice"


# Content ids


def id_of(document):
    return read_structure(document, "x.json").structure_id


def test_equal_contents_have_one_id():
    document = structure(FULL, HALF)
    assert len(id_of(document)) == 32
    assert id_of(json.loads(json.dumps(document, indent=2, sort_keys=True))) == id_of(document)
    assert id_of(change(document, "layers", document["layers"][::-1])) == id_of(document)
    assert id_of(change(document, "total_params", float(document["total_params"]))) == id_of(document)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_name", "Other"),
        ("total_params", 1),
        ("embedding_params", ABSENT),
        ("lm_head_params", 1),
        ("layers[1]", ABSENT),
        ("layers[1].layer_idx", 2),
        ("layers[1].total", 1),
        ("layers[1].norm", ABSENT),
        ("layers[1].attention.q_proj", 1),
        ("layers[1].attention.num_heads", 8),
        ("layers[1].mlp.intermediate_size", 1),
        ("layers[1].mlp.type", "ZeroMLP"),
    ],
)
def test_other_contents_have_another_id(key, value):
    document = structure(FULL, HALF)
    assert id_of(change(document, key, value)) != id_of(document)


# Anything at all

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
KEYS = ["total_params", "layers", "layers[0]", "layers[0].layer_idx", "layers[0].total", "layers[0].attention", "layers[0].mlp"]


@settings(deadline=None, max_examples=100)
@given(key=st.sampled_from(KEYS), value=json_values)
def test_a_foreign_value_anywhere_is_read_or_refused_in_one_line(key, value):
    for read, document in [(read_structure, structure(FULL)), (read_comparison, comparison(base(FULL), structure(FULL)))]:
        try:
            read(change(document, key, value), "A/x.json")
        except InputError as error:
            assert str(error).startswith("A/x.json: ")
            assert "\n" not in str(error)
