"""Parameters, heads and widths of small models of many architectures, as torch and their configs have them."""

from __future__ import annotations

import pytest

from layerhouse.tests.architectures import architecture_of, examine, quiet

CHECKED = (
    "apertus",
    "bart",
    "bert",
    "bloom",
    "deepseek_v3",
    "electra",
    "ernie4_5_moe",
    "exaone_moe",
    "falcon",
    "gemma4_text",
    "gpt2",
    "gpt_neo",
    "gpt_neox",
    "hy_v3",
    "ibert",
    "idefics3",
    "laguna",
    "led",
    "lfm2_vl",
    "mamba",
    "marian",
    "minimax",
    "parakeet_ctc",
    "qwen3_next",
    "resnet",
    "siglip",
    "t5",
    "timesfm",
    "wav2vec2-conformer",
)
"""Families and buffers of every kind, parameters that others have as buffers, and names that fit a family by half."""
OF_NO_FAMILY = {"gpt_neo", "idefics3", "lfm2_vl", "timesfm"}
"""Half of the names of each are those of another family."""


@pytest.mark.parametrize("name", CHECKED)
def test_parameters_are_those_of_torch_and_sizes_those_of_the_config(tmp_path, name):
    with quiet():
        architecture = architecture_of(name)
        if architecture is None:
            pytest.skip(f"this transformers has no {name}")
        outcome = examine(name, architecture, tmp_path)
    assert outcome.why == ""
    assert outcome.wrong == ()
    if name in OF_NO_FAMILY:
        assert outcome.family is None
