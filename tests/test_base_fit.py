"""Which bases are refused, from rows alone: counts, sizes and signatures that contradict each other."""

from __future__ import annotations

import numpy as np
import pytest

from layerhouse.ingest.compare.base_fit import judge_fit
from layerhouse.ingest.measure.signatures import project


def row(name, layer, module, role, shape, values=None, content="x"):
    return {
        "name": name,
        "canonical_name": name,
        "stack": "text",
        "module": module,
        "role": role,
        "part": "weight",
        "layer_index": layer,
        "dtype": "BF16",
        "shape": list(shape),
        "weight_shape": None,
        "is_parameter": True,
        "content_hash": content,
        "signature": None if values is None else project(values),
    }


def model(layers=4, hidden=64, vocab=96, seed=None, norms=True, embedding_seed=None, role="up_proj"):
    """Rows of a model; with signatures of random values where a seed is given."""
    generator = np.random.default_rng(seed)
    embedding_values = None if embedding_seed is None else np.random.default_rng(embedding_seed).normal(size=64)
    rows = [row("embedding", None, "embedding", "embed_tokens", (vocab, hidden), embedding_values, f"e{embedding_seed}")]
    for layer in range(layers):
        values = None if seed is None else generator.normal(size=64)
        rows.append(row(f"{layer}.mlp", layer, "mlp", role, (160, hidden), values, f"{seed} {layer}"))
        norm_values = None if seed is None or norms == "constant" else generator.normal(size=64)
        if norms:
            rows.append(row(f"{layer}.norm", layer, "norm", "mlp_norm", (hidden,), norm_values, f"n{seed} {layer}"))
    return rows


@pytest.mark.parametrize(
    ("child", "differences"),
    [
        ({"layers": 3, "vocab": 120}, "3 vs 4 layers, vocab 120 vs 96"),
        ({"layers": 5, "vocab": 120}, "5 vs 4 layers, vocab 120 vs 96"),
        ({"hidden": 48, "vocab": 120}, "hidden size 48 vs 64, vocab 120 vs 96"),
        ({"layers": 5, "hidden": 48}, "5 vs 4 layers, hidden size 48 vs 64"),
        ({"layers": 5, "hidden": 80}, "5 vs 4 layers, hidden size 80 vs 64"),
        (
            {"role": "other", "norms": False},
            "the layers have no tensor in common; its own are 0.mlp, 1.mlp, 2.mlp; the base's 0.mlp, 0.norm, 1.mlp",
        ),
    ],
)
def test_a_base_whose_sizes_contradict_the_models_is_refused(child, differences):
    fit = judge_fit(model(**child), model())
    assert (fit.is_refused, fit.text) == (True, f"base does not fit: {differences}")


def test_names_that_a_refusal_shows_are_few_and_short():
    odd = [{**entry, "name": "n" * 5000, "role": "odd", "layer_index": None} for entry in model(norms=False)]
    text = judge_fit(odd, model()).text
    assert text.count("n" * 100 + "...") == 3
    assert len(text) < 500
    assert judge_fit([], model()).text.endswith("its own are none; the base's 0.mlp, 0.norm, 1.mlp")


@pytest.mark.parametrize("child", [{}, {"vocab": 120}, {"layers": 3}, {"layers": 5}])
def test_one_difference_alone_is_no_contradiction(child):
    fit = judge_fit(model(**child), model())
    assert (fit.is_refused, fit.text) == (False, "")


@pytest.mark.parametrize("layers", [3, 4])
def test_another_hidden_size_with_no_more_layers_leaves_shapes_to_compare(layers):
    fit = judge_fit(model(layers, hidden=48), model())
    assert (fit.is_refused, fit.text) == (False, "values are not comparable: hidden size changed from 64 to 48")


def test_the_hidden_size_is_that_of_the_embedding_if_there_are_no_norms():
    fit = judge_fit(model(hidden=48, norms=False), model())
    assert (fit.is_refused, fit.text) == (False, "values are not comparable: hidden size changed from 64 to 48")


def test_the_hidden_size_is_that_of_the_norms_whatever_the_embedding_is():
    """As in models whose embedding is narrower than their blocks. A norm of two axes, as for each head, does not count."""
    narrow = row("embedding", None, "embedding", "embed_tokens", (96, 32))
    per_head = row("0.head_norm", 0, "norm", "attention_norm", (4, 16))
    child, base = [narrow, per_head, *model(hidden=48)[1:]], [narrow, per_head, *model()[1:]]
    fit = judge_fit(child, base)
    assert (fit.is_refused, fit.text) == (False, "values are not comparable: hidden size changed from 64 to 48")


def test_norms_of_different_lengths_leave_the_hidden_size_to_the_embedding():
    child = [*model(), row("0.other_norm", 0, "norm", "attention_norm", (48,))]
    assert judge_fit(child, model()).text == ""


def test_tensors_without_a_role_are_the_same_by_their_name_without_the_layers_number():
    def unnamed(number, name):
        return row(name, number, "other", None, (8, 8))

    head = model(layers=0)
    moved = judge_fit([*head, unnamed(1, "a.1.b.1.c")], [*head, unnamed(2, "a.2.b.1.c")])
    other = judge_fit([*head, unnamed(1, "a.1.b.1.c")], [*head, unnamed(2, "a.2.b.2.c")])
    assert (moved.is_refused, other.is_refused) == (False, True)


def test_values_that_are_nowhere_like_the_bases_are_refused():
    fit = judge_fit(model(3, seed=1), model(seed=2))
    assert fit.is_refused
    assert fit.text == "base does not fit: no layer, embedding or head is like one of the base; 3 vs 4 layers"


@pytest.mark.parametrize(
    ("child", "base"),
    [
        ({"seed": None}, {"seed": 2}),
        ({"seed": 1, "norms": "constant"}, {"seed": 2}),
        ({"seed": 1, "embedding_seed": 3}, {"seed": 2, "embedding_seed": 3}),
    ],
    ids=["not measured", "norms have become constant, as before a rotation", "the embedding is the base's"],
)
def test_values_are_no_reason_to_refuse(child, base):
    assert not judge_fit(model(**child), model(**base)).is_refused


def test_a_rotation_is_a_reason_why_no_value_is_like_the_bases():
    rotation = row("0.rotation", 0, "rotation", "attention_shortcut", (64, 64))
    assert judge_fit([*model(seed=1), rotation], model(seed=2)).is_refused is False


def test_an_embedding_that_is_the_bases_changed_is_akin_and_another_is_not():
    base = model(seed=2, embedding_seed=3)
    signature = np.array(base[0]["signature"])
    noise = np.random.default_rng(4).normal(size=len(signature))
    noise -= noise @ signature / (signature @ signature) * signature
    noise *= np.linalg.norm(signature) / np.linalg.norm(noise)
    for cosine, is_refused in ((0.55, False), (0.45, True)):
        child = model(seed=1, embedding_seed=5)
        child[0]["signature"] = (cosine * signature + np.sqrt(1 - cosine**2) * noise).tolist()
        assert judge_fit(child, base).is_refused is is_refused
