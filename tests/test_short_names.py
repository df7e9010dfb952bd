"""Short names of models: each means just its model where a model is asked for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerhouse.warehouse.answers.query import matching_models
from layerhouse.warehouse.render.short_names import shortest_endings


@pytest.mark.parametrize(
    ("names", "endings"),
    [
        (["results/A", "results/B"], ["A", "B"]),
        (["a/x/M", "b/x/M", "b/N"], ["a/x/M", "b/x/M", "N"]),
        (["a/one/M", "a/two/M"], ["one/M", "two/M"]),
        (["M", "results/M"], ["M", "results/M"]),
        (["x/M", "results/x/M"], ["x/M", "results/x/M"]),
        (["results/a*", "results/ab"], ["a*", "ab"]),
        (["results/a*", "ab"], ["results/a*", "ab"]),
        (["results/"], ["results/"]),
        ([], []),
    ],
)
def test_an_ending_is_as_short_as_it_can_be(names, endings):
    assert list(shortest_endings(names).values()) == endings


def test_names_that_are_not_shown_count_too():
    assert shortest_endings(["a/M"], ["a/M", "b/M", "b/N"]) == {"a/M": "a/M"}


PARTS = st.lists(st.sampled_from(["a", "b", "*", "?", "[a]", "", "a*", "M"]), min_size=1, max_size=4)


@given(st.sets(PARTS.map("/".join), min_size=1, max_size=8))
def test_an_ending_means_its_model_alone(names):
    for name, ending in shortest_endings(sorted(names)).items():
        assert ending == name or matching_models(sorted(names), ending) == {name}
