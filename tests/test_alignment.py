"""Which block of the base each layer is, by the rules alone: hashes, signatures, and the order of the blocks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerhouse.ingest.compare.alignment import LayerFingerprint, Similarity, best_in_order, place_by_score, score_layers
from layerhouse.ingest.compare.match_layers import match_layers


def prints(num, seed=0, size=24):
    generator = np.random.default_rng(seed)
    return [
        LayerFingerprint(
            index,
            {("norm", "n", "weight", None, ""): f"{seed} {index}"},
            {("norm", "n", "weight", None, ""): generator.normal(size=size)},
        )
        for index in range(num)
    ]


def blurred(layer, generator, amount=0.2):
    key = next(iter(layer.hashes))
    moved = layer.signatures[key] + generator.normal(size=24) * amount
    return LayerFingerprint(layer.index, {key: f"blurred {layer.hashes[key]}"}, {key: moved})


def as_layers(chosen):
    return [LayerFingerprint(number, one.hashes, one.signatures) for number, one in enumerate(chosen)]


def place_map(matches):
    return {match.layer_index: match.base_layer_index for match in matches if match.layer_index is not None}


@settings(max_examples=60, deadline=None)
@given(st.sets(st.integers(0, 23), min_size=1), st.integers(0, 2**32), st.floats(0, 1))
def test_any_removal_is_found_exactly_whatever_part_of_it_is_noisy(kept, seed, share):
    base, generator, blocks = prints(24), np.random.default_rng(seed), sorted(kept)
    layers = as_layers([blurred(base[block], generator) if generator.random() < share else base[block] for block in blocks])
    matches, text = match_layers(layers, base)
    assert text is None
    assert place_map(matches) == dict(enumerate(blocks))
    assert sorted(match.base_layer_index for match in matches if match.layer_index is None) == sorted(set(range(24)) - kept)
    for match in matches:
        if match.layer_index is not None:
            is_same = layers[match.layer_index].hashes == base[blocks[match.layer_index]].hashes
            assert match.match == ("exact" if is_same else "similar")
        assert 0 <= match.confidence <= 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 11), min_size=1, max_size=20))
def test_blocks_in_any_order_and_number_are_found_exactly(blocks):
    matches, _ = match_layers(as_layers([prints(12)[block] for block in blocks]), prints(12))
    assert place_map(matches) == dict(enumerate(blocks))
    assert {match.match for match in matches} == {"exact"}


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 2**32))
def test_the_alignment_is_the_best_of_all_that_keep_the_order(num, num_base, seed):
    gains = np.random.default_rng(seed).normal(size=(num, num_base))
    sizes = range(min(num, num_base) + 1)
    maps = (
        dict(zip(rows, columns, strict=True))
        for size in sizes
        for rows in itertools.combinations(range(num), size)
        for columns in itertools.combinations(range(num_base), size)
    )
    assert best_in_order(gains) == max(maps, key=lambda places: sum(gains[row, column] for row, column in places.items()))


def test_a_layer_that_no_value_matches_is_one_of_the_blocks_between_its_neighbours():
    base = prints(6)
    strange = prints(6, seed=5)
    matches, text = match_layers(as_layers([base[0], strange[1], base[3], base[5]]), base)
    assert [(match.layer_index, match.base_layer_index, match.match) for match in matches] == [
        (0, 0, "exact"),
        (1, None, "none"),
        (2, 3, "exact"),
        (3, 5, "exact"),
        (None, 1, "none"),
        (None, 2, "none"),
        (None, 4, "exact"),
    ]
    assert text == "1 layer of 2, and neither hashes nor signatures say which"


def test_layers_without_values_are_placed_by_position_if_the_counts_agree():
    blank = [LayerFingerprint(index, {}, {}) for index in range(3)]
    matches, _ = match_layers(blank, blank)
    assert [(match.base_layer_index, match.match, match.confidence) for match in matches] == [
        (index, "positional", None) for index in range(3)
    ]
    assert {match.match for match in match_layers(blank[:2], blank)[0]} == {"none"}


def test_of_a_model_without_layers_every_block_was_removed():
    matches, text = match_layers([], prints(3))
    assert [(match.layer_index, match.base_layer_index, match.match) for match in matches] == [
        (None, index, "exact") for index in range(3)
    ]
    assert text is None


# Scores

KEY = ("mlp", "up_proj", "weight", None, "")


def signed(vectors, hashes=None):
    """Layers with one tensor each, of these signatures; hashes are all different unless given."""
    texts = hashes or [f"{id(vectors)} {index}" for index in range(len(vectors))]
    return [LayerFingerprint(index, {KEY: texts[index]}, {KEY: vector}) for index, vector in enumerate(vectors)]


def cosines(ours, theirs):
    return ours @ theirs.T / np.outer(np.linalg.norm(ours, axis=1), np.linalg.norm(theirs, axis=1))


def test_scores_are_cosines_less_the_mean_of_the_blocks_if_there_are_three():
    """Two blocks would be each other's negative around their mean."""
    generator = np.random.default_rng(11)
    blocks, layers = generator.normal(size=(3, 24)), generator.normal(size=(2, 24))
    three = score_layers(signed(layers), signed(blocks)).scores
    assert three == pytest.approx(cosines(layers - blocks.mean(0), blocks - blocks.mean(0)))
    two = score_layers(signed(layers), signed(blocks[:2])).scores
    assert two == pytest.approx(cosines(layers, blocks[:2]))


def test_two_blocks_that_differ_little_are_both_found_after_tuning():
    generator = np.random.default_rng(12)
    common = generator.normal(size=24)
    blocks = common + 0.05 * generator.normal(size=(2, 24))
    tuned = blocks + 0.05 * generator.normal(size=(2, 24))
    matches, text = match_layers(signed(tuned), signed(blocks))
    assert ([(match.base_layer_index, match.match) for match in matches], text) == ([(0, "similar"), (1, "similar")], None)


def test_a_tensor_that_some_blocks_have_identically_scores_one_for_these_and_zero_for_the_others():
    vectors = np.random.default_rng(13).normal(size=(4, 24))
    similarity = score_layers(signed(vectors[:1], ["same"]), signed(vectors, ["same", "b", "same", "d"]))
    assert similarity.scores.tolist() == [[1, 0, 1, 0]]
    everywhere = score_layers(signed(vectors[:1], ["same"]), signed(vectors, ["same"] * 4))
    assert np.isnan(everywhere.scores).all()


def similarity_of(scores, least=0.3):
    return Similarity(np.array(scores, float), np.full(np.shape(scores), least))


def place(scores):
    """Row -> column, with every column in reach."""
    return {row: column for row, (column, _) in place_by_score(similarity_of(scores), np.ones(np.shape(scores), bool)).items()}


@pytest.mark.parametrize(("lead", "places"), [(0.19, {0: 0, 1: 1}), (0.21, {0: 1, 1: 0})])
def test_layers_are_placed_out_of_order_only_if_each_leads_clearly(lead, places):
    assert place([[0.5, 0.5 + lead], [0.5 + lead, 0.5]]) == places


@pytest.mark.parametrize(("own", "places"), [(0.45, {0: 0, 1: 1, 2: 2}), (0.32, {0: 0, 1: 0})])
def test_an_order_that_leaves_a_layer_out_has_to_be_clearly_better(own, places):
    """Rows 0 and 1 are clearly column 0, which adds 0.25 to the order of columns; row 2 is column 2, and not clearly."""
    assert place([[0.8, 0.3, 0.1], [0.8, 0.55, 0.1], [0.1, own - 0.1, own]]) == places


def test_the_confidence_is_the_lead_over_the_next_best_block():
    scores = [[0.9, 0.4, -0.2], [0.1, 0.8, 0.75], [-0.3, -0.2, 0.6]]
    places = place_by_score(similarity_of(scores), np.ones((3, 3), bool))
    assert {row: column for row, (column, _) in places.items()} == {0: 0, 1: 1, 2: 2}
    assert [places[row][1] for row in range(3)] == pytest.approx([0.5, 0.05, 0.6])


def test_a_score_below_the_least_is_no_similarity():
    assert place([[0.29, 0.1], [0.1, 0.31]]) == {1: 1}
    assert place([[np.nan, np.nan]]) == {}
