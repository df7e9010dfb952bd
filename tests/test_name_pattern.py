"""Patterns of configs match as `re` would, in linear time, or not at all."""

from __future__ import annotations

import random
import re
import time

import pytest

from layerhouse.ingest.checkpoint.config_json import quantization_config
from layerhouse.ingest.checkpoint.name_pattern import MAX_PATTERN, matches_name

PIECES = ("a", "b", ".", "|", "(", ")", "^", "$", ".*", ".+", "a+", "b*", r"\d+", r"\.", r"\w", "(?:", "-", ":")


def test_random_patterns_match_as_those_of_re():
    source = random.Random(5)
    compared = matched = 0
    for _ in range(20_000):
        pattern = "".join(source.choice(PIECES) for _ in range(source.randrange(1, 9)))
        name = "".join(source.choice("ab.1-:") for _ in range(source.randrange(8)))
        try:
            expected = re.match(pattern, name) is not None
        except re.error:
            assert not matches_name(pattern, name)
            continue
        assert matches_name(pattern, name) is expected, (pattern, name)
        compared += 1
        matched += expected
    assert compared > 10_000
    assert 1000 < matched < compared - 1000


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        (r".*\.layers\.\d+\.self_attn\.(q|k|v)_proj$", "model.layers.12.self_attn.k_proj", True),
        (r".*\.layers\.\d+\.self_attn\.(q|k|v)_proj$", "model.layers.12.self_attn.o_proj", False),
        (r"model\.layers\.(0|1)\.mlp\.(?:gate|up)_proj.*", "model.layers.1.mlp.up_proj.x", True),
        ("^lm_head$", "lm_head", True),
        ("^lm_head$", "model.lm_head", False),
    ],
)
def test_patterns_as_quantisers_write_them(pattern, name, matches):
    assert matches_name(pattern, name) is matches


@pytest.mark.parametrize(
    "pattern",
    [
        *("(a+)+$", "(a|b)*", "a{3}", "a?", "[ab]", r"(a)\1", "(?=a)", "(?P<x>a)", "(a", "a)", r"\Aa", "a**", "+a"),
        *("a" * (MAX_PATTERN + 1), "(a|b)" * 7),
    ],
)
def test_other_syntax_matches_nothing(pattern):
    assert not matches_name(pattern, "aaaa")


def test_a_pattern_that_makes_re_try_again_and_again_takes_linear_time():
    start = time.process_time()
    assert not matches_name(".*a" * 12 + "b", "a" * 2048)
    assert time.process_time() - start < 2  # 0.02 s; re takes longer than anyone waits


def test_names_patterns_and_classes_of_groups_rank_in_this_order():
    groups = {
        "by class": {"targets": ["Linear"], "weights": {"num_bits": 8}},
        "by pattern": {"targets": ["re:.*_proj", "re:(a+)+$"], "weights": {"num_bits": 4}},
        "by name": {"targets": ["mlp.up_proj", 3, None], "weights": {"num_bits": 2}},
        "no bits": {"targets": ["Linear"], "weights": {"num_bits": "x"}},
        "no group": 7,
    }
    config = quantization_config({"quantization_config": {"config_groups": groups}})
    assert config.group_bits("model.layers.0.mlp.up_proj") == 2
    assert config.group_bits("model.layers.0.mlp.down_proj") == 4
    assert config.group_bits("model.layers.0.gate") == 8
    assert config.group_bits("model.embed_tokens") is None


def test_very_many_targets_cost_no_more_than_their_number():
    targets = [f"layer{number}" for number in range(200_000)] + [f"re:.*a.*{number}" for number in range(5000)]
    groups = {str(number): {"targets": targets, "weights": {"num_bits": 4}} for number in range(3)}
    start = time.process_time()
    config = quantization_config({"quantization_config": {"config_groups": groups}})
    assert [config.group_bits(f"model.b{number}") for number in range(100)] == [None] * 100
    assert time.process_time() - start < 10  # 1 s
