"""Studies as scripts write them: bases under several names, the base's own comparison, files that disagree or are cut."""

from __future__ import annotations

import json

import pytest

from layerhouse.ingest.study.known_bases import KnownBase, KnownBases
from layerhouse.ingest.study.same_layers import are_same
from layerhouse.ingest.study.structures import Structure, read_comparison, read_structure
from layerhouse.tests import tiny_models
from layerhouse.tests.study_files import (
    ANALYSIS,
    COMPARISON,
    EMPTY,
    FULL,
    HALF,
    ORIGINAL,
    REMOVAL,
    RESULT,
    base,
    comparison,
    ingest,
    lines,
    put,
    put_all,
    removal,
    result,
    rows,
    structure,
)
from layerhouse.warehouse.answers.handle import Warehouse

PLAIN = "analysis/model_structure.json"
PRUNING = "analysis/pruning_comparison.json"
UNEVEN = (FULL, HALF, FULL, FULL)
TURNED = ((600, 400), HALF, FULL, FULL)
"""Layers with the totals of UNEVEN, and other modules in the first."""
GENERIC = "\u539f\u59cb\u6a21\u578b"
"""The name that a script of the study gives every base: original model."""


def named(name, *sizes):
    return structure(*sizes, name=name)


def bases(warehouse):
    """Each model and its base, as the numbers of the bases in the order in which they are met."""
    found = rows(warehouse, "SELECT model_id, base_checkpoint_id FROM models ORDER BY model_id")
    numbers = {}
    return {model: None if base_id is None else numbers.setdefault(base_id, len(numbers)) for model, base_id in found}


# A base is what its layers are


@pytest.mark.parametrize("order", [("A", "B", "C"), ("C", "B", "A")], ids=["generic first", "own name first"])
@pytest.mark.parametrize("steps", [1, 3], ids=["together", "one after the other"])
def test_a_base_under_several_names_is_one(tmp_path, order, steps):
    """In one file it has a generic name, in another its own, and a third lists only some of its layers."""
    models = {
        "A": {COMPARISON: comparison(named(GENERIC, *UNEVEN), structure(HALF, HALF, FULL, FULL))},
        "B": {ANALYSIS: structure(HALF, HALF), ORIGINAL: named("Base-7B", *UNEVEN)},
        "C": {COMPARISON: comparison(named("models/Base-7B", *UNEVEN), structure(FULL, HALF))},
    }
    for number, name in enumerate(order):
        put_all(tmp_path / f"results/{name}", models[name])
        if steps == 3 or number == 2:
            ingest(tmp_path / "results", into=tmp_path / "w")
    assert bases(tmp_path / "w") == {"results/A": 0, "results/B": 0, "results/C": 0}
    assert rows(tmp_path / "w", "SELECT model_id, reduction_ratio, num_removed_layers FROM models ORDER BY model_id") == [
        ("results/A", 500 / 8596, 0),
        ("results/B", 2548 / 8596, 2),
        ("results/C", 2048 / 8596, 2),
    ]
    layers = rows(tmp_path / "w", "SELECT base_params FROM layer_pruning WHERE model_id = 'results/A' ORDER BY layer_index")
    assert layers == [(1024,), (524,), (1024,), (1024,)]


def test_two_bases_of_one_name_and_equal_counts_stay_two(tmp_path):
    assert named(GENERIC, *UNEVEN)["total_params"] == named(GENERIC, *TURNED)["total_params"]
    put(tmp_path / "results/A" / COMPARISON, comparison(named(GENERIC, *UNEVEN), structure(HALF, HALF, FULL, FULL)))
    put(tmp_path / "results/B" / COMPARISON, comparison(named(GENERIC, *TURNED), structure(HALF, HALF, FULL, FULL)))
    put_all(tmp_path / "results/C", {ANALYSIS: structure(HALF, HALF), ORIGINAL: named(GENERIC, *TURNED)})
    put_all(tmp_path / "results/D", {ANALYSIS: structure(HALF, HALF), ORIGINAL: named("Base-7B", *UNEVEN)})
    ingest(tmp_path / "results", into=tmp_path / "w")
    assert bases(tmp_path / "w") == {"results/A": 0, "results/B": 1, "results/C": 1, "results/D": 0}


def test_layers_that_fit_two_bases_are_of_neither(tmp_path):
    """The comparison lists the one layer that both bases have; a name that only one of them has tells them apart."""
    first, second = (FULL, HALF, FULL), (FULL, FULL, HALF)
    put_all(tmp_path / "results/A", {ANALYSIS: structure(HALF), ORIGINAL: named("first", *first)})
    put_all(tmp_path / "results/B", {ANALYSIS: structure(HALF), ORIGINAL: named("second", *second)})
    put(tmp_path / "results/C" / COMPARISON, comparison(named(GENERIC, *first), structure(HALF)))
    put(tmp_path / "results/D" / COMPARISON, comparison(named("second", *second), structure(EMPTY)))
    ingest(tmp_path / "results", into=tmp_path / "w")
    assert bases(tmp_path / "w") == {"results/A": 0, "results/B": 1, "results/C": 2, "results/D": 1}
    counts = "SELECT model_id, base_num_layers FROM models ORDER BY model_id"
    assert rows(tmp_path / "w", counts)[2:] == [("results/C", None), ("results/D", 3)]


def test_a_model_with_the_layers_of_a_base_is_that_base_whatever_files_call_it(tmp_path):
    """Its results are those that others are compared with. A model with zeros has the same layers, and is no base."""
    put_all(tmp_path / "baselines/Base-7B", {PLAIN: named("Original Model", *UNEVEN), RESULT: result(10.0)})
    put_all(tmp_path / "baselines/Wanda_5000", {PLAIN: named("Wanda_5000", *UNEVEN), RESULT: result(30.0)})
    put_all(
        tmp_path / "results/A",
        {COMPARISON: comparison(named(GENERIC, *UNEVEN), structure(HALF, HALF, FULL, FULL)), RESULT: result(20.0)},
    )
    ingest(tmp_path / "results", into=tmp_path / "w")
    ingest(tmp_path / "baselines", into=tmp_path / "w")
    with Warehouse(tmp_path / "w") as wh:
        columns = ("model_id", "base_model_id", "ppl_wikitext2_factor")
        assert wh.query("against_base").select(columns).rows() == [
            ("baselines/Base-7B", "baselines/Base-7B", 1.0),
            ("results/A", "baselines/Base-7B", 2.0),
        ]


def test_the_front_of_a_base_has_all_of_its_models(tmp_path):
    """Under two names of one base the worse model was on a front of its own."""
    worse, better = structure(HALF, HALF, FULL, FULL), structure(HALF, HALF, HALF, FULL)
    put_all(tmp_path / "results/A", {COMPARISON: comparison(named(GENERIC, *UNEVEN), worse), RESULT: result(30.0)})
    put_all(tmp_path / "results/B", {COMPARISON: comparison(named("Base-7B", *UNEVEN), better), RESULT: result(20.0)})
    ingest(tmp_path / "results", into=tmp_path / "w")
    with Warehouse(tmp_path / "w") as wh:
        assert wh.query("trade_off").select("model_id", "dominated_by").rows() == [
            ("results/A", ["results/B"]),
            ("results/B", []),
        ]


def test_analyses_find_a_base_whose_weights_come_later_and_take_one_that_is_named(tmp_path):
    """A describes its base, which has a general name; B describes none, and takes the weights that --base names."""
    tiny_models.save(tiny_models.build(tiny_models.TinyModel("llama", tiny_models.GROUPED)), tmp_path / "baselines/Base-7B")
    ingest(tmp_path / "baselines", into=tmp_path / "measured")
    columns = "params, attention_params, mlp_params, norm_params"
    ((params,),) = rows(tmp_path / "measured", "SELECT params FROM models")
    sizes = rows(tmp_path / "measured", f"SELECT {columns} FROM layers ORDER BY layer_index")
    listed = [
        {"layer_idx": index, "total": total, "attention": {"total": attention}, "mlp": {"total": mlp}, "norm": norm}
        for index, (total, attention, mlp, norm) in enumerate(sizes)
    ]
    original = {"model_name": GENERIC, "total_params": params, "layers": listed}
    pruned = {**original, "model_name": "A", "total_params": params - 2 * sizes[0][0], "layers": listed[:2]}
    put_all(tmp_path / "results/A", {ANALYSIS: pruned, ORIGINAL: original})
    put_all(tmp_path / "results/B", {ANALYSIS: {**pruned, "model_name": "B"}, REMOVAL: removal(0, 1, of=4)})
    ingest(tmp_path / "results", into=tmp_path / "w")
    ingest(tmp_path / "baselines", into=tmp_path / "w")
    assert bases(tmp_path / "w") == {"baselines/Base-7B": 0, "results/A": 0, "results/B": None}
    ingest(tmp_path / "results", into=tmp_path / "w", base="baselines/Base-7B")
    assert bases(tmp_path / "w") == {"baselines/Base-7B": 0, "results/A": 0, "results/B": 0}
    (row,) = rows(tmp_path / "w", "SELECT base_params, removed_layers FROM models WHERE model_id = 'results/B'")
    assert row == (params, [0, 1])


# The base's own comparison


@pytest.mark.parametrize(
    "own", [named("Base-7B", *UNEVEN), named("\u526a\u679d\u540e\u6a21\u578b", *UNEVEN)], ids=["name", "generic"]
)
def test_a_base_that_is_compared_with_itself_stays_the_base(tmp_path, own):
    files = {ANALYSIS: own, COMPARISON: comparison(named("Base-7B", *UNEVEN), own), RESULT: result(10.0)}
    put_all(tmp_path / "baselines/Base-7B", files)
    put_all(
        tmp_path / "results/A",
        {COMPARISON: comparison(named(GENERIC, *UNEVEN), structure(HALF, HALF, FULL, FULL)), RESULT: result(20.0)},
    )
    ingest(tmp_path / "baselines", tmp_path / "results", into=tmp_path / "w")
    with Warehouse(tmp_path / "w") as wh:
        assert wh.query("against_base").select("model_id", "base_model_id", "ppl_wikitext2_factor").rows() == [
            ("baselines/Base-7B", "baselines/Base-7B", 1.0),
            ("results/A", "baselines/Base-7B", 2.0),
        ]
        columns = "model_id, reduction_ratio, removed_layers, untouched_layers"
        assert wh.sql(f"SELECT {columns} FROM models ORDER BY model_id").rows() == [
            ("baselines/Base-7B", 0.0, [], 4),
            ("results/A", 500 / 8596, [], 3),
        ]


@pytest.mark.parametrize("folder", ["results/Wanda_5000", "Wanda_5000/Base-7B"])
def test_a_model_with_all_layers_of_its_base_is_compared_with_it(tmp_path, folder):
    files = {COMPARISON: comparison(named("Base-7B", *UNEVEN), named("pruned", *UNEVEN))}
    put_all(tmp_path / folder, files)
    ingest(tmp_path / folder.partition("/")[0], into=tmp_path / "w")
    (row,) = rows(tmp_path / "w", "SELECT base_checkpoint_id = checkpoint_id, reduction_ratio FROM models")
    assert row == (False, 0.0)


# Files that disagree, and files that are cut


def test_equal_totals_and_other_layers_are_a_note(tmp_path):
    own, compared = structure(HALF, FULL), structure(FULL, HALF)
    assert own["total_params"] == compared["total_params"]
    files = {ANALYSIS: own, COMPARISON: comparison(base(FULL, FULL), compared), ORIGINAL: base((600, 400), FULL)}
    put_all(tmp_path / "results/A", files)
    ingest(tmp_path / "results", into=tmp_path / "w")
    (note,) = rows(tmp_path / "w", "SELECT status_note FROM models")
    assert note == (
        "the comparison has other numbers in layers 0, 1 than the analysis, which is taken; "
        "the comparison has other numbers in layer 0 of the base than original_model_analysis.json, which is taken",
    )


@pytest.mark.parametrize(
    ("cut", "expected"),
    [
        (COMPARISON, (2, 2, "model_comparison.json could not be read")),
        (ORIGINAL, (2, 2, "original_model_analysis.json could not be read")),
        (ANALYSIS, (2, 2, "pruned_model_analysis.json could not be read")),
    ],
)
def test_a_cut_file_leaves_the_others_in(tmp_path, cut, expected):
    """Each of the three can be spared; the note says which is missing, and the whole file is read once it is there."""
    pruned, original = structure(HALF, FULL), base(FULL, FULL)
    files = {ANALYSIS: pruned, ORIGINAL: original, COMPARISON: comparison(original, pruned)}
    put_all(tmp_path / "results/A", files | {cut: json.dumps(files[cut])[:200]})
    report = ingest(tmp_path / "results", into=tmp_path / "w")
    assert [line.partition(":")[0] for line in lines(report)] == [f"failed results/A/{cut}", "taken results/A"]
    query = "SELECT num_layers, base_num_layers, status_note FROM models"
    assert rows(tmp_path / "w", query) == [expected]
    put(tmp_path / "results/A" / cut, files[cut])
    ingest(tmp_path / "results", into=tmp_path / "w")
    assert rows(tmp_path / "w", query) == [(2, 2, None)]


def test_without_a_whole_file_on_the_model_there_is_nothing(tmp_path):
    put_all(tmp_path / "results/A", {ANALYSIS: "{", ORIGINAL: base(), REMOVAL: removal(1, of=4)})
    report = ingest(tmp_path / "results", into=tmp_path / "w")
    assert [line.partition(":")[0] for line in lines(report)] == [f"failed results/A/{ANALYSIS}"]
    assert rows(tmp_path / "w", "SELECT count(*) FROM checkpoints") == [(0,)]


# --base with analyses


@pytest.mark.parametrize("together", [True, False], ids=["of this ingest", "of the warehouse"])
def test_analyses_without_a_base_take_the_one_that_is_named(tmp_path, together):
    put(tmp_path / "baselines/Base-7B" / PLAIN, named("Base-7B", *UNEVEN))
    put_all(tmp_path / "results/A", {PLAIN: structure(FULL, HALF, FULL), REMOVAL: removal(2, of=4)})
    put(tmp_path / "results/B" / PLAIN, structure(HALF, HALF, FULL, FULL))
    put_all(tmp_path / "results/C", {PLAIN: structure(HALF), ORIGINAL: named("Other", FULL)})
    if not together:
        ingest(tmp_path / "baselines", into=tmp_path / "w")
    roots = [tmp_path / "baselines", tmp_path / "results"] if together else [tmp_path / "results"]
    report = ingest(*roots, into=tmp_path / "w", base="baselines/Base-7B")
    assert [line for line in lines(report) if line.startswith("passed")] == [
        "passed results/C: its files describe a base that is not baselines/Base-7B: it is compared with that"
    ]
    query = "SELECT model_id, base_params, reduction_ratio, removed_layers FROM models ORDER BY model_id"
    assert rows(tmp_path / "w", query) == [
        ("baselines/Base-7B", 8596, 0.0, []),
        ("results/A", 8596, 1024 / 8596, [2]),
        ("results/B", 8596, 500 / 8596, []),
        ("results/C", 6024, 500 / 6024, []),
    ]


def test_analyses_that_were_taken_before_are_compared_with_the_base_that_is_named(tmp_path):
    put(tmp_path / "baselines/Base-7B" / PLAIN, named("Base-7B", *UNEVEN))
    put_all(tmp_path / "results/A", {PLAIN: structure(FULL, HALF, FULL), REMOVAL: removal(2, of=4)})
    put_all(tmp_path / "results/C", {PLAIN: structure(HALF), ORIGINAL: named("Other", FULL)})
    put(tmp_path / "results/D" / PLAIN, structure(*(HALF,) * 5))
    roots = (tmp_path / "baselines", tmp_path / "results")
    ingest(*roots, into=tmp_path / "w")
    report = ingest(*roots, into=tmp_path / "w", base="baselines/Base-7B")
    assert [line for line in lines(report) if line.startswith("passed")] == [
        "passed results/D: not compared with baselines/Base-7B: base does not fit: 5 vs 4 layers"
    ]
    query = "SELECT model_id, base_params, removed_layers FROM models ORDER BY model_id"
    assert rows(tmp_path / "w", query) == [
        ("baselines/Base-7B", 8596, []),
        ("results/A", 8596, [2]),
        ("results/C", 6024, []),
        ("results/D", None, None),
    ]


def test_a_tuned_model_is_no_base_of_another_name(tmp_path):
    """It has the layers of the base, whose own model is not here; a base without a name of its own is that model."""
    put(tmp_path / "results/Base-7B-tuned" / PLAIN, named("Base-7B-tuned", *UNEVEN))
    cut = structure(HALF, HALF, FULL, FULL)
    put(tmp_path / "results/A" / COMPARISON, comparison(named("Base-7B", *UNEVEN), cut))
    ingest(tmp_path / "results", into=tmp_path / "named")
    assert bases(tmp_path / "named") == {"results/A": 0, "results/Base-7B-tuned": None}
    put(tmp_path / "results/A" / COMPARISON, comparison(named(GENERIC, *UNEVEN), cut))
    ingest(tmp_path / "results", into=tmp_path / "generic")
    assert bases(tmp_path / "generic") == {"results/A": 0, "results/Base-7B-tuned": 0}


# What two descriptions have in common


def test_what_is_stated_on_both_sides_decides():
    whole = read_structure(named("a", *UNEVEN), "")
    listed = read_comparison(comparison(named("b", *UNEVEN), structure(HALF, HALF)), "").original
    assert are_same(whole, listed)
    assert are_same(listed, whole)
    assert not are_same(read_structure(named("a", *TURNED), ""), listed)
    assert not are_same(read_structure(named("a", FULL, HALF, FULL), ""), whole)


def test_descriptions_without_a_common_layer_go_by_their_names():
    bare = [Structure(name, 100, None, (), None) for name in ("a", "a", "b", None)]
    assert [are_same(bare[0], other) for other in bare] == [True, True, False, False]
    assert not are_same(bare[3], bare[3])


def test_layers_of_stored_bases_are_read_when_they_are_needed():
    loads = []
    whole = read_structure(named("Base", *UNEVEN), "")

    def load(ids):
        loads.append(sorted(ids))
        return {"b" * 32: whole.layers}

    known = KnownBases(load)
    stored = Structure("Base", whole.params, whole.layer_params, (), 4)
    known.add(KnownBase("b" * 32, stored, names=frozenset({"Base"}), is_stored=True, is_listed=False))
    assert known.find(read_structure(named("Base", FULL), "")) is None
    assert loads == []
    for _ in range(2):
        assert known.find(read_structure(named("other", *UNEVEN), "")).checkpoint_id == "b" * 32
    assert loads == [["b" * 32]]
