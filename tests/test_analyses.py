"""Analysis files become a checkpoint, its layers, its base and a map between the two; what no file states stays null."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from layerhouse.errors import InputError
from layerhouse.ingest.study.analyses import Base, combine, read_file
from layerhouse.ingest.study.structures import read_structure
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
from layerhouse.version import __version__

PLAIN = "analysis/model_structure.json"
PRUNING = "analysis/pruning_comparison.json"


@pytest.fixture
def analyse(tmp_path):
    """Read analysis files and combine them; `known` is the base that is found whatever they describe."""

    def run(files, known=None):
        parsed = {Path(name).name: read_file(put(tmp_path / name, document), name) for name, document in files.items()}
        return combine(parsed, "results/A", lambda structure: known)

    return run


def matches(analysis):
    return [(row["layer_index"], row["base_layer_index"], row["match"]) for row in analysis.layer_matches]


def notes(analysis):
    assert {note["code"] for note in analysis.checkpoint["notes"]} <= {"disagreement"}
    return [note["text"] for note in analysis.checkpoint["notes"]]


def sizes(base_layers):
    return [(row["layer_index"], row["params"]) for row in base_layers]


def with_changes(document, **changes):
    return json.loads(json.dumps(document)) | changes


UNEVEN = base(FULL, HALF, FULL, FULL)


# Rows


def test_a_structure_becomes_a_checkpoint_and_its_layers(analyse):
    analysis = analyse({ANALYSIS: structure(HALF, EMPTY)})
    checkpoint_id = analysis.checkpoint["checkpoint_id"]
    assert analysis.checkpoint == {
        "checkpoint_id": checkpoint_id,
        "source_kind": "analysis",
        "declared_name": "Pruned",
        "params": 5548,
        "embedding_params": 2000,
        "lm_head_params": 2000,
        "layer_params": 548,
        "num_layers": 2,
        "stats_level": "none",
        "status": "ok",
        "notes": [],
        "tool_version": __version__,
        "declared": None,
        "declared_base": None,
    }
    assert analysis.layers == (
        {
            "checkpoint_id": checkpoint_id,
            "stack": "text",
            "layer_index": 0,
            "params": 524,
            "attention_params": 200,
            "mlp_params": 300,
            "norm_params": 24,
            "other_params": 0,
            "role_params": {"q_proj": 200, "up_proj": 300},
            "num_heads": None,
            "num_kv_heads": None,
            "head_dim": None,
            "intermediate_size": 3,
            "attention_type": "LlamaAttention",
            "mlp_type": "LlamaMLP",
            "is_zero_layer": False,
        },
        analysis.layers[1],
    )
    assert (analysis.layers[1]["params"], analysis.layers[1]["is_zero_layer"]) == (24, True)
    assert (analysis.layer_matches, analysis.base_checkpoint, analysis.base_layers) == ((), None, ())


def test_an_original_beside_it_is_its_base(analyse):
    analysis = analyse({ANALYSIS: structure(HALF, FULL), ORIGINAL: base(FULL, FULL)})
    assert analysis.base_checkpoint["declared_name"] == "Base"
    assert analysis.base_checkpoint["status"] == "ok"
    assert analysis.base_checkpoint["params"] == 7048
    assert sizes(analysis.base_layers) == [(0, 1024), (1, 1024)]
    assert {row["base_checkpoint_id"] for row in analysis.layer_matches} == {analysis.base_checkpoint["checkpoint_id"]}
    assert matches(analysis) == [(0, 0, "positional"), (1, 1, "positional")]
    assert analysis.checkpoint["declared_base"] == "Base"


def test_a_comparison_alone_gives_both_sides(analyse):
    analysis = analyse({PRUNING: comparison(base(FULL, FULL), structure(HALF, FULL))})
    assert {key: analysis.checkpoint[key] for key in ("declared_name", "params", "layer_params", "num_layers")} == {
        "declared_name": "Pruned",
        "params": 6548,
        "layer_params": 1548,
        "num_layers": 2,
    }
    assert sizes(analysis.layers) == [(0, 524), (1, 1024)]
    assert analysis.layers[0]["norm_params"] is None
    assert (analysis.base_checkpoint["params"], analysis.base_checkpoint["num_layers"]) == (7048, 2)
    assert analysis.base_checkpoint["status"] == "partial"
    assert matches(analysis) == [(0, 0, "positional"), (1, 1, "positional")]
    assert json.loads(analysis.checkpoint["declared"]) == {"original_name": "Base", "pruned_name": "Pruned"}


def test_a_comparison_that_lists_a_part_of_the_model_leaves_its_count_open(analyse):
    analysis = analyse({COMPARISON: comparison(base(FULL, FULL), structure(FULL, FULL, FULL))})
    assert (analysis.checkpoint["num_layers"], analysis.checkpoint["layer_params"]) == (None, 3072)
    assert sizes(analysis.layers) == [(0, 1024), (1, 1024)]


@pytest.mark.parametrize("files", [{ORIGINAL: base()}, {ORIGINAL: base(), REMOVAL: removal(1, of=4)}, {REMOVAL: removal(1)}])
def test_without_a_word_on_the_model_itself_there_is_nothing(analyse, files):
    with pytest.raises(InputError) as caught:
        analyse(files)
    names = ", ".join(sorted(Path(name).name for name in files))
    assert str(caught.value) == f"results/A: no structure of the model itself in {names}"


# How many layers the base has


@pytest.mark.parametrize(
    ("files", "num_layers", "base_sizes"),
    [
        # stated by layers_to_remove.json
        (
            {COMPARISON: comparison(base(), structure(FULL, FULL)), REMOVAL: removal(1, 2, of=4)},
            4,
            [(0, 1024), (1, 1024), (2, 1024), (3, 1024)],
        ),
        (
            {COMPARISON: comparison(UNEVEN, structure(FULL, HALF)), REMOVAL: removal(2, 3, of=4)},
            4,
            [(0, 1024), (1, 524), (2, None), (3, None)],
        ),
        # stated by an original in the model's own folder
        (
            {COMPARISON: comparison(UNEVEN, structure(FULL, HALF)), ORIGINAL: UNEVEN},
            4,
            [(0, 1024), (1, 524), (2, 1024), (3, 1024)],
        ),
        # the listed layers are alike, and the parameters of all layers are a multiple of theirs
        ({COMPARISON: comparison(base(), structure(HALF, FULL))}, 4, [(0, 1024), (1, 1024), (2, 1024), (3, 1024)]),
        # all layers are listed
        (
            {COMPARISON: comparison(UNEVEN, structure(HALF, HALF, HALF, HALF))},
            4,
            [(0, 1024), (1, 524), (2, 1024), (3, 1024)],
        ),
        # unknown: the listed layers differ, the division leaves a rest, or there is no sum of all layers
        ({COMPARISON: comparison(UNEVEN, structure(FULL, HALF))}, None, [(0, 1024), (1, 524)]),
        (
            {COMPARISON: with_changes(comparison(base(), structure(FULL)), layer_params={"original": 4097})},
            None,
            [(0, 1024)],
        ),
        ({COMPARISON: with_changes(comparison(base(), structure(FULL)), layer_params=None)}, None, [(0, 1024)]),
        # unknown, as no model has so many layers
        (
            {COMPARISON: with_changes(comparison(base(), structure(FULL)), layer_params={"original": 1024 * 100_001})},
            None,
            [(0, 1024)],
        ),
    ],
)
def test_the_layer_count_of_the_base(analyse, files, num_layers, base_sizes):
    analysis = analyse(files)
    assert analysis.base_checkpoint["num_layers"] == num_layers
    assert sizes(analysis.base_layers) == base_sizes


KNOWN = Base("b" * 32, read_structure(base(), "known"), names=frozenset({"Base"}), is_known=True)


@pytest.mark.parametrize("own", [{}, {ORIGINAL: base()}])
def test_a_base_that_is_known_already_is_pointed_at(analyse, own):
    files = {ANALYSIS: structure(FULL, FULL), COMPARISON: comparison(base(), structure(FULL, FULL)), REMOVAL: removal(0, 2)}
    analysis = analyse(files | own, KNOWN)
    assert {row["base_checkpoint_id"] for row in analysis.layer_matches} == {"b" * 32}
    assert (analysis.base_checkpoint, analysis.base_layers) == (None, ())
    assert matches(analysis) == [(0, 1, "declared"), (1, 3, "declared"), (None, 0, "declared"), (None, 2, "declared")]


def test_a_further_name_of_a_known_base_has_a_row(analyse):
    analysis = analyse({COMPARISON: comparison(structure(FULL, name="original"), structure(HALF))}, KNOWN)
    row = analysis.base_checkpoint
    assert (row["checkpoint_id"], row["declared_name"], row["params"], row["num_layers"]) == ("b" * 32, "original", 9096, 4)
    assert analysis.base_layers == ()


@pytest.mark.parametrize("files", [{ORIGINAL: "base"}, {COMPARISON: "comparison"}])
def test_blocks_of_a_base_count_from_zero(analyse, files):
    counted_from_one = base(FULL, FULL)
    for item in counted_from_one["layers"]:
        item["layer_idx"] += 1
    side_by_side = comparison(base(FULL, FULL), structure(FULL, FULL))
    for item in side_by_side["layers"]:
        item["layer_idx"] += 1
    documents = {"base": counted_from_one, "comparison": side_by_side}
    with pytest.raises(InputError, match=r"layers: layer_idx 2 of a base of 2 layers \(0 is the first\)$"):
        analyse({name: documents[document] for name, document in files.items()})


# Which block is which


def test_declared_removals_place_every_layer(analyse):
    analysis = analyse({ANALYSIS: structure(FULL, HALF), ORIGINAL: base(), REMOVAL: removal(2, 0, of=4)})
    assert matches(analysis) == [(0, 1, "declared"), (1, 3, "declared"), (None, 0, "declared"), (None, 2, "declared")]
    assert notes(analysis) == []
    assert json.loads(analysis.checkpoint["declared"]) == {"layers_to_remove": [0, 2], "original_num_layers": 4}


def test_a_base_that_lost_nothing_is_declared_too(analyse):
    analysis = analyse({ANALYSIS: structure(FULL, FULL), ORIGINAL: base(FULL, FULL), REMOVAL: removal()})
    assert matches(analysis) == [(0, 0, "declared"), (1, 1, "declared")]


def test_equal_counts_match_by_position_whatever_numbers_the_layers_have(analyse):
    gaps = structure(FULL, FULL)
    gaps["layers"][1]["layer_idx"] = 7
    assert matches(analyse({ANALYSIS: gaps, ORIGINAL: base(FULL, FULL)})) == [(0, 0, "positional"), (7, 1, "positional")]


def test_emptied_blocks_stay_in_place(analyse):
    analysis = analyse({ANALYSIS: structure(FULL, EMPTY, FULL), ORIGINAL: base(FULL, FULL, FULL), REMOVAL: removal(1, of=3)})
    assert matches(analysis) == [(0, 0, "positional"), (1, 1, "positional"), (2, 2, "positional")]
    assert notes(analysis) == []


def test_where_no_file_says_which_blocks_went_no_layer_has_one(analyse):
    analysis = analyse({ANALYSIS: structure(FULL, FULL), ORIGINAL: base(FULL, FULL, FULL)})
    assert matches(analysis) == [(0, None, "none"), (1, None, "none"), (None, 0, "none"), (None, 1, "none"), (None, 2, "none")]
    assert notes(analysis) == []


def test_an_unknown_layer_count_of_the_base_places_nothing(analyse):
    analysis = analyse({COMPARISON: comparison(UNEVEN, structure(FULL, HALF)), REMOVAL: removal(2, 3)})
    assert matches(analysis) == [(0, None, "none"), (1, None, "none")]
    assert notes(analysis) == ["layers_to_remove.json names 2 layers, and the model has 2 layers of an unknown number"]


@pytest.mark.parametrize(
    ("list_of_removed", "texts"),
    [
        (removal(0, of=4), ["layers_to_remove.json names 1 layers, and the model has 2 layers of 4"]),
        (removal(1, 2, 7), ["layers_to_remove.json names 3 layers, and the model has 2 layers of 4"]),
        (
            removal(0, 1, 2, of=5),
            [
                "layers_to_remove.json says 5 layers of the base, and it has 4",
                "layers_to_remove.json names 3 layers, and the model has 2 layers of 4",
            ],
        ),
    ],
)
def test_a_removal_list_that_does_not_fit_is_a_note_and_places_nothing(analyse, list_of_removed, texts):
    analysis = analyse({ANALYSIS: structure(FULL, FULL), ORIGINAL: base(), REMOVAL: list_of_removed})
    assert {match for _, _, match in matches(analysis)} == {"none"}
    assert notes(analysis) == texts


@pytest.mark.parametrize(
    ("document", "what"),
    [
        ({"n_remove": 1}, "layers_to_remove: missing"),
        ({"layers_to_remove": 3}, "layers_to_remove: expected a list, found 3"),
        ({"layers_to_remove": [1, "2"]}, "layers_to_remove[1]: expected an integer from 0 to 100000, found '2'"),
        ({"layers_to_remove": [-1]}, "layers_to_remove[0]: expected an integer from 0 to 100000, found -1"),
        ({"layers_to_remove": [True]}, "layers_to_remove[0]: expected an integer from 0 to 100000, found True"),
        ({"layers_to_remove": [1.5]}, "layers_to_remove[0]: expected an integer from 0 to 100000, found 1.5"),
        ({"layers_to_remove": [1, 1]}, "layers_to_remove: a layer stands twice"),
        ({"layers_to_remove": [1], "n_remove": 2}, "n_remove is 2, and layers_to_remove lists 1"),
        (
            {"layers_to_remove": [4, 0], "original_num_layers": 4},
            "layers_to_remove: layer 4 of a model of 4 layers (0 is the first)",
        ),
        (
            {"layers_to_remove": [], "original_num_layers": 2**31 - 1},
            "original_num_layers: expected an integer from 0 to 100000, found 2147483647",
        ),
    ],
)
def test_a_removal_list_that_contradicts_itself_is_refused(analyse, document, what):
    with pytest.raises(InputError) as caught:
        analyse({ANALYSIS: structure(FULL), REMOVAL: document})
    assert str(caught.value) == f"{REMOVAL}: {what}"


# Files that disagree


@pytest.mark.parametrize(
    ("files", "text"),
    [
        (
            {ANALYSIS: structure(HALF), PLAIN: structure(FULL)},
            "model_structure.json differs from pruned_model_analysis.json, which is taken",
        ),
        (
            {COMPARISON: comparison(base(FULL), structure(HALF)), PRUNING: comparison(base(FULL), structure(FULL))},
            "pruning_comparison.json differs from model_comparison.json, which is taken",
        ),
        (
            {ANALYSIS: structure(HALF), COMPARISON: comparison(base(FULL), structure(FULL))},
            "the comparison says 6024 parameters, the analysis 5524, which is taken",
        ),
        (
            {ANALYSIS: structure(HALF), COMPARISON: comparison(base(FULL), structure(HALF)), ORIGINAL: base(HALF)},
            "the comparison says 6024 parameters of the base, original_model_analysis.json 5524, which is taken",
        ),
        (
            {ANALYSIS: with_changes(structure(HALF), total_params=500)},
            "the layers add up to 524 of 500 parameters",
        ),
        (
            {ANALYSIS: with_changes(structure(HALF), layer_summary={"num_layers": 2})},
            "layer_summary says 2 layers, and 1 are listed",
        ),
        (
            {ANALYSIS: with_changes(structure(HALF), layer_summary={"total_layer_params": 525})},
            "layer_summary says 525 parameters of all layers, and the listed ones add up to 524",
        ),
    ],
)
def test_files_that_disagree_are_a_note(analyse, files, text):
    assert notes(analyse(files)) == [text]


def test_parts_larger_than_their_layer_are_a_note(analyse):
    document = structure(FULL, HALF)
    document["layers"][1]["total"] = 499
    analysis = analyse({ANALYSIS: with_changes(document, layer_summary=None)})
    assert notes(analysis) == ["layer 1: attention and MLP add up to more than its total"]
    assert analysis.layers[1]["other_params"] is None


def test_the_same_structure_under_another_name_is_no_disagreement(analyse):
    assert notes(analyse({ANALYSIS: structure(HALF), PLAIN: structure(HALF, name="models/Pruned")})) == []


def test_of_two_structures_that_of_the_pruned_model_is_taken(analyse):
    assert analyse({PLAIN: structure(FULL), ANALYSIS: structure(HALF)}).checkpoint["params"] == 5524


# Content ids


def test_equal_contents_are_one_checkpoint(analyse):
    files = {ANALYSIS: structure(FULL, FULL), ORIGINAL: base(), REMOVAL: removal(1, 0, of=4)}
    again = {REMOVAL: removal(0, 1, of=4), ORIGINAL: base(), ANALYSIS: structure(FULL, FULL)}
    assert analyse(files) == analyse(again)


def test_the_removal_list_and_the_base_are_part_of_the_content(analyse):
    variants = [
        {ANALYSIS: structure(FULL, FULL)},
        {ANALYSIS: structure(FULL, HALF)},
        {ANALYSIS: structure(FULL, FULL), ORIGINAL: base()},
        {ANALYSIS: structure(FULL, FULL), ORIGINAL: UNEVEN},
        {ANALYSIS: structure(FULL, FULL), ORIGINAL: base(), REMOVAL: removal(0, 1)},
        {ANALYSIS: structure(FULL, FULL), ORIGINAL: base(), REMOVAL: removal(0, 2)},
    ]
    assert len({analyse(files).checkpoint["checkpoint_id"] for files in variants}) == len(variants)


def test_a_structure_alone_has_the_id_that_it_has_as_a_base(analyse):
    alone = analyse({PLAIN: base()})
    assert (
        alone.checkpoint["checkpoint_id"]
        == analyse({ANALYSIS: structure(FULL), ORIGINAL: base()}).base_checkpoint["checkpoint_id"]
    )


# In a warehouse

SUMMARY = "SELECT model_id, reduction_ratio, removed_layers, num_removed_layers, base_num_layers FROM models ORDER BY model_id"
BASES = "SELECT DISTINCT base_checkpoint_id FROM models"


def test_a_base_is_its_own_base(tmp_path):
    put(tmp_path / "baselines/Base" / PLAIN, base())
    put_all(tmp_path / "results/A", {ANALYSIS: structure(HALF, FULL, FULL, FULL), ORIGINAL: base()})
    put_all(tmp_path / "results/B", {ANALYSIS: structure(FULL, FULL, FULL), ORIGINAL: base(), REMOVAL: removal(1, of=4)})
    put_all(tmp_path / "results/C", {ANALYSIS: structure(FULL, FULL, FULL), ORIGINAL: base()})
    put_all(tmp_path / "results/D", {ANALYSIS: structure(HALF)})
    report = ingest(tmp_path / "baselines", tmp_path / "results", into=tmp_path / "w")
    assert report.count("taken") == 5
    assert rows(tmp_path / "w", SUMMARY) == [
        ("baselines/Base", 0.0, [], 0, 4),
        ("results/A", 500 / 9096, [], 0, 4),
        ("results/B", 1024 / 9096, [1], 1, 4),
        ("results/C", 1024 / 9096, None, 1, 4),
        ("results/D", None, None, None, None),
    ]


@pytest.mark.parametrize("order", ["together, described first", "together, described last", "described in the warehouse"])
def test_a_comparison_finds_the_base_that_another_model_describes(tmp_path, order):
    described, compared = ("a", "b") if order != "together, described last" else ("b", "a")
    results = tmp_path / "results"
    put_all(results / described, {ANALYSIS: structure(FULL, HALF, FULL, HALF), ORIGINAL: UNEVEN})
    put(tmp_path / "baselines/Base" / PLAIN, UNEVEN)
    if order == "described in the warehouse":
        ingest(tmp_path / "baselines", results, into=tmp_path / "w")
    put_all(results / compared, {COMPARISON: comparison(UNEVEN, structure(FULL, HALF, FULL))})
    ingest(tmp_path / "baselines", results, into=tmp_path / "w")
    assert len(rows(tmp_path / "w", BASES)) == 1
    assert rows(tmp_path / "w", f"SELECT * FROM ({SUMMARY}) WHERE model_id = 'results/{compared}'") == [
        (f"results/{compared}", 1024 / 8596, None, 1, 4)
    ]


def test_bases_of_one_name_and_size_that_differ_are_none(tmp_path):
    put_all(tmp_path / "results/A", {ANALYSIS: structure(FULL), ORIGINAL: base(HALF, FULL, FULL)})
    put_all(tmp_path / "results/B", {ANALYSIS: structure(FULL), ORIGINAL: base(FULL, FULL, HALF)})
    put_all(tmp_path / "results/C", {COMPARISON: comparison(base(FULL, HALF, FULL), structure(FULL, HALF))})
    ingest(tmp_path / "results", into=tmp_path / "w")
    assert rows(tmp_path / "w", f"SELECT base_num_layers FROM ({SUMMARY})") == [(3,), (3,), (None,)]


def test_a_broken_removal_list_costs_itself_alone(tmp_path):
    files = {ANALYSIS: structure(FULL), REMOVAL: removal(4, of=4), RESULT: result()}
    put_all(tmp_path / "results/A", files)
    assert lines(ingest(tmp_path / "results", into=tmp_path / "w")) == [
        f"failed results/A/{REMOVAL}: layers_to_remove: layer 4 of a model of 4 layers (0 is the first)",
        "taken results/A: 1 analysis file, 1 result file",
    ]
    assert rows(tmp_path / "w", "SELECT num_layers, status_note FROM models") == [
        (1, "no base to compare with; layers_to_remove.json could not be read")
    ]
