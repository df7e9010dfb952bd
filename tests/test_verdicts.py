"""What a checkpoint is to its base, in words: every kind of change, and every pair of kinds, on models of four forms.

The changes are made in different tensors of one base, so that a pair of changes has the words of both.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import layerhouse as lh
from layerhouse import demo
from layerhouse.ingest.checkpoint.layouts.factors import factor_refs
from layerhouse.ingest.checkpoint.tensor_ref import TensorRef
from layerhouse.tests.tiny_models import GPT2, GROUPED, TinyModel, build
from layerhouse.warehouse.answers.comparing import PICTURE_SQL, pictures

LAYERS = 7
State = dict[str, Any]


@dataclass(frozen=True)
class Form:
    """A model, and the names of its tensors: `block` before those of a layer, `{}` for its number.

    `mlp` are the weights of an MLP with the axis of its neurons, `vocab` the embedding and the head; `mask`, `tune`, `refill`,
    `factor` and `pack` are weights of a block.
    """

    tiny: TinyModel
    block: str
    mlp: Mapping[str, int]
    vocab: tuple[str, ...]
    mask: str
    tune: str
    refill: str
    factor: str
    pack: str


ATTENTION = {name: f"self_attn.{name}_proj.weight" for name in "qkvo"}
PLAIN_MLP = {"mlp.gate_proj.weight": 0, "mlp.up_proj.weight": 0, "mlp.down_proj.weight": 1}
EXPERTS = {
    f"block_sparse_moe.experts.{at}.{name}.weight": axis for at in range(4) for name, axis in (("w1", 0), ("w3", 0), ("w2", 1))
}
LLAMA = {**GROUPED, "num_hidden_layers": LAYERS}
LLAMA_NAMES = {
    "block": "model.layers.{}.",
    "vocab": ("model.embed_tokens.weight", "lm_head.weight"),
    "tune": ATTENTION["k"],
    "refill": ATTENTION["o"],
    "factor": ATTENTION["v"],
    "pack": ATTENTION["q"],
}
FORMS = {
    "llama": Form(TinyModel("llama", LLAMA), mlp=PLAIN_MLP, mask="mlp.up_proj.weight", **LLAMA_NAMES),
    "tied llama": Form(
        TinyModel("llama", {**LLAMA, "tie_word_embeddings": True}), mlp=PLAIN_MLP, mask="mlp.up_proj.weight", **LLAMA_NAMES
    ),
    "mixtral": Form(
        TinyModel("mixtral", {**LLAMA, "num_local_experts": 4}),
        mlp=EXPERTS,
        mask="block_sparse_moe.experts.2.w2.weight",
        **LLAMA_NAMES,
    ),
    "gpt2": Form(
        TinyModel("gpt2", {**GPT2, "n_layer": LAYERS}),
        block="transformer.h.{}.",
        mlp={"mlp.c_fc.weight": 1, "mlp.c_fc.bias": 0, "mlp.c_proj.weight": 0},
        vocab=("transformer.wte.weight",),
        mask="mlp.c_fc.weight",
        tune="attn.c_attn.weight",
        refill="attn.c_proj.weight",
        factor="mlp.c_proj.weight",
        pack="attn.c_attn.weight",
    ),
}


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def mask(state: State, form: Form) -> None:
    name = form.block.format(0) + form.mask
    state[name] = state[name] * (torch.rand(state[name].shape, generator=generator()) < 0.5)


def tune(state: State, form: Form) -> None:
    name = form.block.format(1) + form.tune
    state[name] = state[name] + 0.001 * torch.randn(state[name].shape, generator=generator())


def refill(state: State, form: Form) -> None:
    name = form.block.format(2) + form.refill
    state[name] = torch.where(state[name] == 0, torch.full_like(state[name], 0.01), state[name])


def cut(state: State, form: Form) -> None:
    for part, axis in form.mlp.items():
        name = form.block.format(3) + part
        state[name] = state[name].narrow(axis, 0, state[name].shape[axis] - 16)


def factorise(state: State, form: Form) -> None:
    name = form.block.format(4) + form.factor
    left, values, right = torch.linalg.svd(state.pop(name).float(), full_matrices=False)
    stem = name.removesuffix("_proj.weight")
    state[f"{stem}_u_proj.weight"] = left[:, :12] * values[:12]
    state[f"{stem}_v_proj.weight"] = right[:12]


def pack(state: State, form: Form) -> None:
    name = form.block.format(5) + form.pack
    scale = state[name].abs().max() / 448
    state[name] = (state[name] / scale).to(torch.float8_e4m3fn)
    state[f"{name}_scale"] = scale.reshape(1)


def grow(state: State, form: Form) -> None:
    for name in form.vocab:
        if name in state:
            state[name] = torch.cat([state[name], torch.randn((8, 64), generator=generator()) * 0.02])


def cast(state: State, form: Form) -> None:
    for name, tensor in state.items():
        if tensor.dtype == torch.float32 and not name.endswith("_scale"):
            state[name] = tensor.to(torch.bfloat16)


def rebuild(state: State, form: Form, order: list[int]) -> None:
    """Make a model of the base's blocks in this order."""
    kept = dict(state)
    for name in kept:
        if re.match(re.escape(form.block).replace(r"\{\}", r"\d+"), name):
            del state[name]
    for number, block in enumerate(order):
        for name, tensor in kept.items():
            if name.startswith(form.block.format(block)):
                state[form.block.format(number) + name.removeprefix(form.block.format(block))] = tensor.clone()


def remove(state: State, form: Form) -> None:
    rebuild(state, form, list(range(number_of_blocks(state, form) - 1)))


def repeat(state: State, form: Form) -> None:
    rebuild(state, form, [0, *range(number_of_blocks(state, form))])


def reorder(state: State, form: Form) -> None:
    rebuild(state, form, [0, 1, 2, 4, 3, *range(5, number_of_blocks(state, form))])


def number_of_blocks(state: State, form: Form) -> int:
    pattern = re.compile(re.escape(form.block).replace(r"\{\}", r"(\d+)"))
    return 1 + max(int(match[1]) for name in state if (match := pattern.match(name)))


CHANGES: dict[str, tuple[Callable[[State, Form], None], str]] = {
    "sliced": (cut, r"sliced: \d+ tensors"),
    "grown": (grow, r"grown: [12] tensors? by (512|1,024) parameters"),
    "factorised": (factorise, r"factorised: 2 factors of rank 12"),
    "quantised": (pack, r"quantised: 1 tensor"),
    "masked": (mask, r"masked: [\d,]+ values set to zero in [12] tensors?"),
    "refilled": (refill, r"refilled: [\d,]+ zeros of the base filled in [12] tensors?"),
    "tuned": (tune, r"tuned: other values in [12] tensors?"),
    "blocks_removed": (remove, r"block removed: 6"),
    "blocks_repeated": (repeat, r"block 0 twice"),
    "blocks_reordered": (reorder, r"blocks reordered: .*"),
    "cast": (cast, r"cast to another type, values within rounding(: \d+ tensors)?"),
}
"""What is done, in this order, and the sentence that says so."""

ORDER = (
    "blocks_removed", "blocks_repeated", "blocks_reordered", "sliced", "grown", "factorised", "quantised", "masked", "refilled",
    "tuned", "cast",
)  # fmt: skip
"""The order of verdicts."""


def base_state(form: Form, folder: Path) -> tuple[State, dict[str, Any]]:
    """A model with zeros in some weights, which can be refilled."""
    build(form.tiny).save_pretrained(folder)
    state = load_file(folder / "model.safetensors")
    for layer in range(LAYERS):
        name = form.block.format(layer) + form.refill
        state[name] = state[name] * (torch.rand(state[name].shape, generator=generator()) < 0.6)
    return state, json.loads((folder / "config.json").read_text("utf-8"))


def write(folder: Path, state: State, config: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config), "utf-8")


def make_zoo(form: Form, root: Path) -> list[tuple[str, ...]]:
    """The base, a copy, and a model for every kind of change and for every pair of them."""
    state, config = base_state(form, root / "base")
    write(root / "base", state, config)
    kinds = [(kind,) for kind in CHANGES]
    pairs = list(itertools.combinations(CHANGES, 2))
    for kinds_of_one in (*kinds, *pairs):
        changed = dict(state)
        for kind in kinds_of_one:
            CHANGES[kind][0](changed, form)
        own = dict(config)
        own["n_layer" if "n_layer" in own else "num_hidden_layers"] = number_of_blocks(changed, form)
        if "quantised" in kinds_of_one:
            own["quantization_config"] = {"quant_method": "fp8", "activation_scheme": "dynamic"}
        write(root / "+".join(kinds_of_one), changed, own)
    return [*kinds, *pairs]


@pytest.fixture(scope="module", params=FORMS)
def zoo(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoo")
    models = make_zoo(FORMS[request.param], folder / "zoo")
    for model in (folder / "zoo").iterdir():
        document = {"model_path": f"zoo/{model.name}", "metrics": {"ppl": {"ptb": 20.0}}}
        demo.write_json(model / "evaluation" / "evaluation_results.json", document)
    report = lh.ingest([folder / "zoo"], base=folder / "zoo" / "base", warehouse=folder / "wh")
    assert report.count("failed") == 0
    return models, lh.open(folder / "wh")


def answer(wh, sql: str) -> list[tuple]:
    return wh.connection_for(sql).sql(sql).fetchall()


VERDICTS = """
SELECT model_id, verdicts, verdict
FROM current_checkpoints
JOIN checkpoint_changes USING (checkpoint_id, base_checkpoint_id)
"""


def test_every_change_and_every_pair_of_changes_has_its_words_and_sentences(zoo):
    models, wh = zoo
    found = {model.rpartition("/")[2]: (words, text) for model, words, text in answer(wh, VERDICTS)}
    wrong = {}
    for kinds in models:
        words, text = found["+".join(kinds)]
        sentences = dict(zip(words, text.split("; "), strict=True))
        are_right = all(re.fullmatch(CHANGES[kind][1], sentences.get(kind, "")) for kind in kinds)
        if words != sorted(kinds, key=ORDER.index) or not are_right:
            wrong["+".join(kinds)] = text
    assert wrong == {}


PICTURE_LINES = {
    "sliced": r"^light: .*\b3\b",
    "factorised": r"^factorised: 1 \(text 4\)",
    "quantised": r"^quantised: 1 \(text 5\)",
    "masked": r"of the values zero, .* in the base, in .*text 0",
    "refilled": r"^refilled: 1 \(text 2\)",
    "tuned": r"^other values: \d \(text .*1",
    "blocks_removed": r"^removed: 1 \(text 6\)",
    "blocks_repeated": r"^duplicated: text 0 twice",
    "blocks_reordered": r"^reordered: 2 \(text (2-3|3-4)\)",
    "cast": r"^another type: ",
    "grown": r"^every block as it was|^untouched: ",
}
"""What a picture says of each change; of rows that were added to the vocabulary, no block tells."""


def test_the_picture_has_the_verdict_and_a_line_for_every_change(zoo):
    models, wh = zoo
    verdicts = {model: text for model, _, text in answer(wh, VERDICTS)}
    drawn = {text.partition(" against ")[0]: text for text in pictures(wh.connection_for(PICTURE_SQL), (), is_unicode=True)}
    wrong = {}
    for kinds in models:
        name = f"zoo/{'+'.join(kinds)}"
        assert drawn[name].splitlines()[2] == verdicts[name]
        told_by_blocks = [kind for kind in kinds if kind != "grown" or len(kinds) == 1]
        missing = [kind for kind in told_by_blocks if not re.search(PICTURE_LINES[kind], drawn[name], re.MULTILINE)]
        if missing:
            wrong[name] = missing, drawn[name]
    assert wrong == {}


def test_at_equal_quality_the_model_that_keeps_least_is_the_front_of_the_trade_off(zoo):
    models, wh = zoo
    for by, column in (("nonzero", "nonzero_retention"), ("bytes", "bytes_retention")):
        rows = wh.query("trade_off", by=by).select("model_id", "kept_by", "kept_share", "is_on_front").rows()
        shares = dict(answer(wh, f"SELECT model_id, {column} FROM models"))
        assert len(rows) == len(models) + 1
        assert all((kept_by, share) == (by, shares[model]) for model, kept_by, share, _ in rows)
        least = min(shares.values())
        assert {model for model, *_, is_on_front in rows if is_on_front} == {name for name in shares if shares[name] == least}


LEVELS = """
SELECT model_id, base_layer_index, level, nonzero_level
FROM layer_pruning
WHERE level <> 'untouched' OR nonzero_level IS DISTINCT FROM 'untouched'
ORDER BY ALL
"""


def test_levels_are_those_of_the_cut_layers_alone(zoo):
    _, wh = zoo
    levels: dict[str, list[tuple]] = {}
    for model, *row in answer(wh, LEVELS):
        levels.setdefault(model.rpartition("/")[2], []).append(tuple(row))
    for kind in ("tuned", "cast", "blocks_repeated", "blocks_reordered", "grown", "base"):
        assert (kind, levels.get(kind)) == (kind, None)
    assert [row[:2] for row in levels["sliced"]] == [(3, "light")]
    assert levels["masked"] == [(0, "untouched", "light")]
    assert levels["refilled"] == [(2, "untouched", "grown")]
    assert levels["factorised"][0][0] == 4
    assert levels["factorised"][0][1] in ("light", "medium")
    assert levels["blocks_removed"] == [(6, "removed", "removed")]


def test_the_strategy_is_that_of_the_change(zoo):
    _, wh = zoo
    found = {model.rpartition("/")[2]: word for model, word in answer(wh, "SELECT model_id, strategy FROM models")}
    assert (found["tuned"], found["cast"], found["refilled"]) == ("dense", "dense", "dense")
    assert (found["blocks_removed"], found["blocks_repeated"]) == ("layer_removal", "stacked")
    assert (found["blocks_reordered"], found["sliced+blocks_removed"]) == (
        "reordered",
        "mixed",
    )


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> tuple[Path, State, dict[str, Any]]:
    """A folder, and the state and config of the base in it."""
    folder = tmp_path_factory.mktemp("llama")
    state, config = base_state(FORMS["llama"], folder / "zoo" / "base")
    write(folder / "zoo" / "base", state, config)
    return folder, state, config


def compared(folder: Path, state: State, config: dict[str, Any], base: Path, **options: Any) -> Any:
    """A warehouse with a model and its base."""
    write(folder / "child", state, config)
    lh.ingest([base, folder / "child"], base=base, warehouse=folder / "wh", **options)
    return lh.open(folder / "wh")


def verdict_of(wh) -> tuple[list[str], str]:
    [(_, words, text)] = answer(wh, VERDICTS)
    return words, text


def test_zeros_that_were_filled_and_other_values_are_counted_for_each_tensor(llama, tmp_path):
    """As an adapter that is merged into a masked model: it changes every value of the weights that it has."""
    folder, state, config = llama
    name = FORMS["llama"].block.format(2) + FORMS["llama"].refill
    changed = {**state, name: state[name] + 0.01}
    wh = compared(tmp_path, changed, config, folder / "zoo" / "base")
    zeros = int((state[name] == 0).sum())
    sql = (
        f"SELECT relation, changed, zeroed, filled, altered FROM tensor_matches WHERE name = '{name}' AND relation IS NOT NULL"
    )
    assert answer(wh, sql) == [("changed", state[name].numel(), 0, zeros, state[name].numel() - zeros)]
    assert verdict_of(wh) == (
        ["refilled", "tuned"],
        f"refilled: {zeros:,} zeros of the base filled in 1 tensor; tuned: other values in 1 tensor",
    )


def test_the_part_of_a_grown_tensor_that_the_base_has_is_compared(llama, tmp_path):
    folder, state, config = llama
    first, rest = torch.zeros(8, 64), torch.ones(32, 64)
    changed = {**state}
    changed["model.embed_tokens.weight"] = torch.cat([state["model.embed_tokens.weight"], first])
    name = "model.layers.3.mlp.down_proj.weight"
    changed[name] = torch.cat([state[name], rest.T], dim=1)
    changed[name][0, 0] += 1
    wh = compared(tmp_path, changed, config, folder / "zoo" / "base")
    sql = "SELECT name, changed, altered, added_params FROM tensor_matches WHERE relation = 'grown' ORDER BY name"
    assert answer(wh, sql) == [("model.embed_tokens.weight", 0, 0, 512), (name, 1, 1, 2048)]
    assert verdict_of(wh)[1] == "grown: 2 tensors by 2,560 parameters; tuned: other values in 1 tensor"


def test_a_tensor_that_grew_in_front_of_the_bases_rows_is_not_called_tuned(llama, tmp_path):
    folder, state, config = llama
    name = "model.embed_tokens.weight"
    changed = {**state, name: torch.cat([torch.randn((8, 64), generator=generator()) * 0.02, state[name]])}
    wh = compared(tmp_path, changed, config, folder / "zoo" / "base")
    assert verdict_of(wh) == (["grown"], "grown: 1 tensor by 512 parameters")
    assert answer(wh, "SELECT changed, altered FROM tensor_matches WHERE relation = 'grown'") == [(None, None)]


def test_a_missing_final_norm_makes_a_model_incomplete_and_no_layer_removal(llama, tmp_path):
    folder, state, config = llama
    kept = {name: tensor for name, tensor in state.items() if name != "model.norm.weight"}
    wh = compared(tmp_path, kept, config, folder / "zoo" / "base")
    assert verdict_of(wh) == (["left_out"], "left out: model.norm.weight")
    [(strategy, text)] = answer(wh, "SELECT strategy, status_note FROM models WHERE model_id LIKE '%child'")
    assert (strategy, text) == ("dense", "incomplete: model.norm.weight is missing")


def test_a_model_without_any_layer_says_so(llama, tmp_path):
    folder, state, config = llama
    kept = {name: tensor for name, tensor in state.items() if ".layers." not in name}
    wh = compared(tmp_path, kept, config, folder / "zoo" / "base")
    [(layers, text)] = answer(wh, "SELECT num_layers, status_note FROM models WHERE model_id LIKE '%child'")
    assert (layers, text) == (0, f"no base to compare with; no layer found, the config declares {LAYERS}")


FACTOR_NAMES = (
    "{}_u_proj.weight|{}_v_proj.weight",
    "{}_proj.ALinear.weight|{}_proj.BLinear.weight",
    "{}_proj.1.weight|{}_proj.0.weight",
    "{}_proj.linear_u.weight|{}_proj.linear_v.weight",
    "{}_proj.U|{}_proj.V",
)
"""Names of the left and the right factor of a weight, in the files of several tools."""


def test_factors_have_the_heads_and_widths_of_their_weights(llama, tmp_path):
    folder, state, config = llama
    for number, naming in enumerate(FACTOR_NAMES):
        changed = dict(state)
        for name in [name for name in state if "self_attn" in name or ".mlp." in name]:
            left, values, right = torch.linalg.svd(changed.pop(name).float(), full_matrices=False)
            stem = name.removesuffix("_proj.weight")
            names = [part.format(stem) for part in naming.split("|")]
            changed |= {names[0]: left[:, :12] * values[:12], names[1]: right[:12]}
        own = tmp_path / str(number)
        wh = compared(own, changed, config, folder / "zoo" / "base")
        assert verdict_of(wh) == (["factorised"], "factorised: 98 factors of rank 12")
        sizes = "num_heads, num_kv_heads, head_dim, intermediate_size, hidden_size, layers.macs_per_token"
        sql = f"SELECT DISTINCT {sizes} FROM layers JOIN checkpoints USING (checkpoint_id) WHERE model_id LIKE '%child'"
        macs = 12 * ((64 + 64) * 2 + (64 + 32) * 2 + (64 + 160) * 3)
        assert answer(wh, sql) == [(4, 2, 16, 160, 64, macs)]
        [(params,)] = answer(wh, "SELECT params FROM models WHERE model_id LIKE '%child'")
        assert params == sum(tensor.numel() for tensor in changed.values())


@pytest.mark.parametrize(
    ("shapes", "are_factors"),
    [
        ({"0.weight": (12, 64), "1.weight": (64, 12)}, True),
        ({"0.weight": (12, 64), "1.weight": (64, 12), "1.bias": (64,)}, True),
        ({"0.weight": (12, 64), "1.weight": (64, 12), "0.bias": (12,)}, False),
        ({"0.weight": (12, 64), "1.weight": (64, 13)}, False),
        ({"0.weight": (64, 64), "1.weight": (64, 64)}, False),
        ({"0.weight": (12, 64), "1.weight": (64, 12), "2.weight": (64, 12)}, False),
        ({"0.weight": (12, 64), "1.weight": (64, 12), "weight": (64, 64)}, False),
        ({"lora_A.weight": (12, 64), "lora_B.weight": (64, 12)}, False),
        ({"U": (64, 12), "V": (12, 64), "S": (12,)}, False),
    ],
    ids=str,
)
def test_two_matrices_are_factors_only_if_they_stand_for_one_weight(tmp_path, shapes, are_factors):
    stem = "model.layers.0.self_attn.q_proj."
    tensors = [TensorRef(f"{stem}{name}", "F32", shape, tmp_path, 0, 4) for name, shape in shapes.items()]
    found = {ref.name.removeprefix(stem): ref.layout.part for ref in factor_refs(tensors).values()}
    left = next(iter([name for name, shape in shapes.items() if shape == (64, 12)]), None)
    expected = {left: "left_factor", "0.weight": "right_factor"} | ({"1.bias": "bias"} if "1.bias" in shapes else {})
    assert found == (expected if are_factors else {})


def test_two_layers_of_a_projector_are_no_factors(tmp_path):
    names = {"model.mm_proj.0.weight": (8, 32), "model.mm_proj.1.weight": (32, 8)}
    assert factor_refs([TensorRef(name, "F32", shape, tmp_path, 0, 4) for name, shape in names.items()]) == {}


def fused_mixtral(state: State) -> State:
    """The same weights as transformers 5 stores them."""
    fused = {
        name.replace("block_sparse_moe.gate", "mlp.gate"): tensor for name, tensor in state.items() if ".experts." not in name
    }
    for layer in range(LAYERS):

        def experts(word, layer=layer):
            return [state[f"model.layers.{layer}.block_sparse_moe.experts.{at}.{word}.weight"] for at in range(4)]

        gate_up = [torch.cat(pair) for pair in zip(experts("w1"), experts("w3"), strict=True)]
        fused[f"model.layers.{layer}.mlp.experts.gate_up_proj"] = torch.stack(gate_up)
        fused[f"model.layers.{layer}.mlp.experts.down_proj"] = torch.stack(experts("w2"))
    return fused


@pytest.mark.parametrize("is_base_fused", [False, True])
def test_experts_that_are_fused_on_one_side_are_compared_one_by_one(is_base_fused, tmp_path):
    form = FORMS["mixtral"]
    state, config = base_state(form, tmp_path / "made")
    masked = dict(state)
    mask(masked, form)
    for name, child, text in (
        ("equal", state, "identical to the base, in another layout"),
        ("masked", masked, r"masked: 5,\d+ values set to zero in 1 tensor; in another layout: 84 tensors"),
    ):
        base, own = (fused_mixtral(state), child) if is_base_fused else (state, fused_mixtral(child))
        write(tmp_path / name / "base", base, config)
        wh = compared(tmp_path / name, own, config, tmp_path / name / "base")
        assert re.fullmatch(text, verdict_of(wh)[1]), verdict_of(wh)
        [(gone, added)] = answer(wh, "SELECT n_removed, n_added FROM checkpoint_changes")
        assert (gone, added) == (0, 0)


def test_what_values_alone_can_tell_is_unknown_without_them_and_says_why(llama, tmp_path):
    folder, state, config = llama
    changed = dict(state)
    tune(changed, FORMS["llama"])
    wh = compared(tmp_path, changed, config, folder / "zoo" / "base", compare="rows")
    assert verdict_of(wh) == (["unknown"], "unknown: 1 tensor (values not compared)")


@pytest.mark.parametrize("form", ["tied llama", "gpt2"])
def test_the_head_of_a_tied_model_that_no_file_has_is_no_evidence(form, tmp_path):
    """Not its own, and of a tied base the embedding stands in its place."""
    form = FORMS[form]
    state, config = base_state(form, tmp_path / "base")
    write(tmp_path / "base", state, config)
    untied = {**state, "lm_head.weight": state[form.vocab[0]].clone()}
    wh = compared(tmp_path / "equal", untied, {**config, "tie_word_embeddings": False}, tmp_path / "base")
    assert verdict_of(wh) == (["identical"], "identical to the base")
    untied["lm_head.weight"] = untied["lm_head.weight"] * 1.5
    wh = compared(tmp_path / "other", untied, {**config, "tie_word_embeddings": False}, tmp_path / "base")
    assert verdict_of(wh) == (["tuned"], "tuned: other values in 1 tensor")


def test_a_copy_under_another_name_is_identical_to_the_base(llama, tmp_path):
    folder, state, config = llama
    wh = compared(tmp_path, state, config, folder / "zoo" / "base")
    [(_, verdict)] = wh.query("changes").select("model_id", "verdict").rows()
    assert verdict == "identical to the base"
