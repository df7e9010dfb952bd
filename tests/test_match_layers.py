"""Which block of the base each layer is: removed, renumbered, noisy, reordered, stacked, masked, narrowed, unrelated."""

from __future__ import annotations

import json
import os
import shutil

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

import layerhouse as lh
from layerhouse.tests.tiny_models import (
    EXPLICIT,
    HEAD_DIM,
    INTERMEDIATE,
    TinyModel,
    build,
)
from layerhouse.warehouse.admin.health import check_warehouse
from layerhouse.warehouse.storage.data_files import footer_of
from layerhouse.warehouse.storage.reading import read_rows

CUT = [3, 7, 8]
KEPT = [index for index in range(12) if index not in CUT]
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def is_linear(name):
    return name.split(".")[-2] in LINEARS


def of_layer(name):
    """A tensor's layer, and the rest of its name; None outside of the layers."""
    pieces = name.split(".", 3)
    return (int(pieces[2]), pieces[3]) if name.startswith("model.layers.") else (None, name)


def with_layers(state, *blocks):
    """The model made of these blocks, (its number, the base's block) each."""
    outside = {name: tensor for name, tensor in state.items() if of_layer(name)[0] is None}
    return outside | {
        f"model.layers.{number}.{of_layer(name)[1]}": tensor.clone()
        for number, block in blocks
        for name, tensor in state.items()
        if of_layer(name)[0] == block
    }


def renumbered(state, blocks):
    return with_layers(state, *enumerate(blocks))


def noisy(state, share=0.05):
    generator = torch.Generator().manual_seed(1)
    return {name: tensor * (1 + share * torch.randn(tensor.shape, generator=generator)) for name, tensor in state.items()}


def masked(state):
    """Half of the values of every linear weight of the blocks, the smallest, set to zero."""
    return {
        name: tensor * (tensor.abs() > tensor.abs().median()) if is_linear(name) else tensor for name, tensor in state.items()
    }


def narrowed(state, heads=lambda index: 2 + index % 3, neurons=lambda index: 40 + 10 * index):
    """Fewer KV groups and neurons in each layer: the first heads, the last neurons of the base's."""
    answer = dict(state)
    for name, tensor in state.items():
        index, rest = of_layer(name)
        if index is None or not is_linear(name):
            continue
        num_queries, num_keys = (2, 1) if heads(index) < 4 else (4, 2)
        rows = {"q_proj": num_queries * HEAD_DIM, "k_proj": num_keys * HEAD_DIM, "v_proj": num_keys * HEAD_DIM}
        role, width = rest.split(".")[1], min(neurons(index), INTERMEDIATE)
        if role in rows:
            kept = tensor[: rows[role]]
        elif role == "o_proj":
            kept = tensor[:, : num_queries * HEAD_DIM]
        else:
            kept = tensor[:, -width:] if role == "down_proj" else tensor[-width:]
        answer[name] = kept.contiguous()
    return answer


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """A 12-layer model as the base and models pruned from it, all compared with the base by one ingest."""
    folder = tmp_path_factory.mktemp("compare")
    tiny = TinyModel("llama", {**EXPLICIT, "num_hidden_layers": 12, "tie_word_embeddings": False})
    model = build(tiny)
    generator = torch.Generator().manual_seed(3)
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    norms = {name: tensor for name, tensor in state.items() if "norm" in name}
    # Norms get random values, as in trained models.
    state |= {name: 1 + 0.1 * torch.randn(norm.shape, generator=generator) for name, norm in norms.items()}
    torch.manual_seed(99)
    other = {name: torch.randn_like(tensor) * 0.02 for name, tensor in state.items()}
    children = {
        "base": state,
        "removed": renumbered(state, KEPT),
        "holes": with_layers(state, *((block, block) for block in KEPT)),
        "noisy": noisy(renumbered(state, KEPT)),
        "swapped": renumbered(state, [0, 1, 2, 4, 3, 5, 6, 7, 8, 9, 10, 11]),
        "stacked": renumbered(state, [*range(8), *range(4, 12)]),
        "masked": masked(state),
        "narrowed": narrowed(state),
        "cast": {name: tensor.bfloat16() for name, tensor in state.items()},
        "copy": state,
        "foreign": other,
        "foreign_short": renumbered(other, range(9)),
        "one_lost": renumbered(state, range(12)) | {n: t for n, t in other.items() if n.startswith("model.layers.5.")},
    }
    config = json.loads(model.config.to_json_string(use_diff=False))
    for name, tensors in children.items():
        path = folder / "models" / name
        path.mkdir(parents=True)
        save_file(tensors, path / "model.safetensors")
        layers = len({of_layer(tensor)[0] for tensor in tensors} - {None})
        (path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": layers}))
    report = lh.ingest([folder / "models"], warehouse=folder / "w", base=folder / "models/base", threads=1)
    return folder, report


@pytest.fixture(scope="module")
def opened(zoo):
    with lh.open(zoo[0] / "w") as wh:
        yield wh


@pytest.fixture(scope="module")
def models(opened):
    return {row["model_id"].removeprefix("models/"): row for row in opened.models().to_dicts()}


def places(opened, name):
    """The (layer, block of the base) pairs of a model, its removed blocks, and the rules that matched them."""
    rows = opened.layers(f"models/{name}").select("layer_index", "base_layer_index", "match").rows()
    kept = sorted((layer, base) for layer, base, _ in rows if layer is not None)
    removed = [base for layer, base, _ in rows if layer is None]
    return kept, removed, {match for _, _, match in rows}


def test_all_models_are_taken_and_the_warehouse_passes_its_checks(zoo):
    folder, report = zoo
    assert (report.count("taken"), report.count("failed")) == (13, 0)
    assert check_warehouse(folder / "w") == []


def test_blocks_cut_out_and_the_rest_renumbered_are_found_exactly(opened, models):
    assert places(opened, "removed") == (list(enumerate(KEPT)), CUT, {"exact"})
    row = models["removed"]
    assert (row["removed_layers"], row["num_removed_layers"], row["strategy"]) == (CUT, 3, "layer_removal")
    assert row["base_params"] - row["params"] == 3 * row["base_layer_params"] // 12


def test_holes_in_the_numbering_are_the_removed_blocks(opened, models):
    assert places(opened, "holes") == ([(block, block) for block in KEPT], CUT, {"exact"})
    assert models["holes"]["removed_layers"] == CUT


def test_noise_on_every_weight_is_similar_with_a_confidence(opened, models):
    assert places(opened, "noisy") == (list(enumerate(KEPT)), CUT, {"similar"})
    assert models["noisy"]["removed_layers"] == CUT
    confidences = opened.layers("models/noisy")["match_confidence"]
    assert confidences.null_count() == 0
    assert 0 < confidences.min() <= confidences.max() <= 1


def test_swapped_blocks_are_found_in_their_order(opened, models):
    kept, removed, rules = places(opened, "swapped")
    assert (kept[3:5], removed, rules) == ([(3, 4), (4, 3)], [], {"exact"})
    assert (models["swapped"]["strategy"], models["swapped"]["removed_layers"]) == ("reordered", [])


def test_stacked_blocks_occur_twice(opened, models):
    assert places(opened, "stacked") == (list(enumerate([*range(8), *range(4, 12)])), [], {"exact"})
    stacked = models["stacked"]
    assert (stacked["num_layers"], stacked["removed_layers"], stacked["strategy"]) == (16, [], "stacked")


def test_a_masked_model_is_placed_and_called_masked(opened, models):
    assert places(opened, "masked") == ([(index, index) for index in range(12)], [], {"similar"})
    row = models["masked"]
    assert (row["strategy"], row["reduction_ratio"], row["removed_layers"]) == ("masked", 0.0, [])
    assert row["prunable_sparsity"] == 0.5
    assert row["nonzero_params"] == row["params"] - 12 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 160) // 2


def test_heads_and_neurons_removed_by_layer_are_placed_and_called_non_uniform(opened, models):
    assert places(opened, "narrowed") == ([(index, index) for index in range(12)], [], {"similar"})
    row = models["narrowed"]
    assert (row["strategy"], row["removed_layers"]) == ("non_uniform", [])
    rows = opened.layers("models/narrowed").select("num_heads", "num_kv_heads", "intermediate_size", "base_num_heads").rows()
    assert rows[:3] == [(2, 1, 40, 4), (2, 1, 50, 4), (4, 2, 60, 4)]


def test_a_cast_to_another_type_is_similar_and_dense(opened, models):
    assert places(opened, "cast") == ([(index, index) for index in range(12)], [], {"similar"})
    assert (models["cast"]["strategy"], models["cast"]["reduction_ratio"]) == ("dense", 0.0)


@pytest.mark.parametrize("name", ["base", "copy"])
def test_the_base_and_a_copy_of_it_lack_nothing_and_show_every_layer_once(opened, models, name):
    assert places(opened, name)[:2] == ([(index, index) for index in range(12)], [])
    row = models[name]
    assert (row["reduction_ratio"], row["removed_layers"], row["strategy"]) == (0.0, [], "dense")
    assert (row["retention_mean"], row["retention_std"], row["untouched_layers"]) == (1.0, 0.0, 12)


@pytest.mark.parametrize(
    ("name", "differences"), [("foreign", ""), ("foreign_short", "; 9 vs 12 layers")], ids=["as many layers", "fewer"]
)
def test_a_base_that_does_not_fit_is_refused_in_one_line_and_nothing_is_claimed(zoo, opened, models, name, differences):
    texts = [event.what for event in zoo[1].events if event.kind == "passed" and event.where == f"models/{name}"]
    why = "base does not fit: no layer, embedding or head is like one of the base"
    assert texts == [f"compared with models/base: {why}{differences}"]
    row = models[name]
    assert [row[key] for key in ("base_params", "reduction_ratio", "removed_layers", "num_removed_layers")] == [None] * 4
    assert opened.layers(f"models/{name}")["base_layer_index"].null_count() == row["num_layers"]


def test_a_replaced_layer_leaves_the_others_exact(opened, models):
    rows = opened.layers("models/one_lost").select("layer_index", "base_layer_index", "match").rows()
    assert rows == [(index, index, "positional" if index == 5 else "exact") for index in range(12)]
    assert models["one_lost"]["removed_layers"] == []


# Which model is the base


@pytest.fixture
def few(zoo, tmp_path):
    """A base and a child, in two folders."""
    for name in ("base", "removed"):
        shutil.copytree(zoo[0] / "models" / name, tmp_path / "models" / name)
    return tmp_path


def ingest(folder, *roots, **options):
    return lh.ingest([folder / root for root in roots], warehouse=folder / "w", threads=1, **options)


def base_rows(folder):
    with lh.open(folder / "w") as wh:
        return wh.sql("SELECT model_id, base_params IS NOT NULL, removed_layers FROM models ORDER BY 1").rows()


COMPARED = [("models/base", True, []), ("models/removed", True, CUT)]


def test_a_base_that_is_not_among_the_roots_is_taken_too(few):
    report = ingest(few, "models/removed", base=few / "models/base")
    assert [event.where for event in report.events] == ["models/base", "models/removed"]
    assert base_rows(few) == COMPARED


def tables_of(folder):
    """The tables that each commit has rows of, apart from the first, which has none."""
    documents = [json.loads(path.read_text()) for path in sorted((folder / "w/commits").iterdir())]
    return [sorted(file["table"] for file in document["files"] if file.get("rows")) for document in documents][1:]


def test_a_base_that_is_named_later_adds_only_matches_and_reads_no_weights(few):
    ingest(few, "models", base="none")
    assert [removed for _, _, removed in base_rows(few)] == [None, None]
    before = tables_of(few)
    for path in few.glob("models/*/model.safetensors"):
        status = path.stat()
        path.write_bytes(b"\0" * status.st_size)  # unreadable from here on
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    report = ingest(few, "models", base="models/base")
    assert [event.kind for event in report.events] == ["unchanged", "unchanged"]
    assert tables_of(few) == [*before, ["base_choices", "layer_matches", "tensor_matches"]]
    assert base_rows(few) == COMPARED
    ingest(few, "models", base="models/base")
    assert tables_of(few) == [*before, ["base_choices", "layer_matches", "tensor_matches"]]


def test_stored_rows_that_cannot_be_read_are_an_error_of_the_warehouse(few):
    ingest(few, "models/base")
    (path,) = (path for path in (few / "w/tensors").iterdir() if pq.read_metadata(path).num_rows)
    path.write_bytes(bytes(byte ^ 0xFF for byte in path.read_bytes()))
    with pytest.raises(lh.DamagedWarehouseError, match=f"damaged: tensors/{path.name}: its footer differs"):
        read_rows(few / "w", "tensors", ["any"], ["name"])


def test_stored_rows_whose_pages_are_damaged_name_their_file(few):
    """The footer is whole, so the damage shows when the rows are read."""
    ingest(few, "models/base")
    (path,) = (path for path in (few / "w/tensors").iterdir() if pq.read_metadata(path).num_rows)
    checkpoint_id = pq.read_table(path, columns=["checkpoint_id"])["checkpoint_id"][0].as_py()
    data = path.read_bytes()
    size = len(data) - len(footer_of(data))
    path.write_bytes(data[:4] + bytes(byte ^ 0xFF for byte in data[4:size]) + data[size:])
    with pytest.raises(lh.DamagedWarehouseError, match=f"damaged: tensors/{path.name}: its content differs"):
        read_rows(few / "w", "tensors", [checkpoint_id], ["name"])


def test_a_dry_run_with_a_base_commits_nothing(few):
    ingest(few, "models")
    before = tables_of(few)
    ingest(few, "models", base="models/base", dry_run=True)
    ingest(few, "models", base=few / "models/base", dry_run=True)
    assert tables_of(few) == before


def test_an_unknown_base_is_an_error_that_lists_the_models(few):
    ingest(few, "models")
    with pytest.raises(lh.NotFoundError, match=r"'gone'; there is models/base, models/removed") as caught:
        ingest(few, "models", base="gone")
    assert caught.value.choices == ("models/base", "models/removed")


def test_a_base_folder_with_two_models_is_an_error(few):
    with pytest.raises(lh.UsageError, match=r"the base is one model with weights; found 2"):
        ingest(few, "models", base=few / "models")


def test_a_base_measured_by_headers_alone_is_placed_by_position_or_not_at_all(few):
    ingest(few, "models", base=few / "models/base", stats="none")
    with lh.open(few / "w") as wh:
        assert wh.sql("SELECT DISTINCT match FROM layer_matches ORDER BY 1").rows() == [("none",), ("positional",)]
        assert wh.sql("SELECT num_removed_layers, removed_layers FROM models ORDER BY 1 DESC").row(0) == (3, None)


def test_without_statistics_values_are_compared_only_on_request(few):
    read = []
    relations = "SELECT bool_or(relation IN ('identical', 'changed')) AS is_known FROM tensor_matches"
    for compare in ("auto", "values"):
        warehouse = few / f"w-{compare}"
        lh.ingest(
            few / "models",
            warehouse=warehouse,
            base=few / "models/base",
            stats="none",
            compare=compare,
            on_progress=lambda progress: read.append(progress.bytes),
        )
        with lh.open(warehouse) as wh:
            assert bool(wh.sql(relations).item()) == (compare == "values")
        assert (max(read) > 0) == (compare == "values")


@pytest.mark.parametrize("size", [0, 1])
def test_placeholders_do_not_count_as_pruning_and_are_not_compared(tmp_path, size):
    model = build(TinyModel("llama", EXPLICIT))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    hollow = {name: torch.zeros(size) if ".layers." in name else tensor for name, tensor in state.items()}
    for name, tensors in {"base": state, "hollow": hollow}.items():
        (tmp_path / "zoo" / name).mkdir(parents=True)
        save_file(tensors, tmp_path / "zoo" / name / "model.safetensors")
    report = lh.ingest(tmp_path / "zoo", warehouse=tmp_path / "w", base=tmp_path / "zoo/base")
    texts = [event.what for event in report.events if event.kind == "passed"]
    assert texts == ["placeholder shapes: an incomplete export is not compared with zoo/base"]
    with lh.open(tmp_path / "w") as wh:
        sql = "SELECT reduction_ratio, strategy, status_note FROM models WHERE model_id = 'zoo/hollow'"
        ((ratio, strategy, note),) = wh.sql(sql).rows()
        assert (ratio, strategy) == (None, None)
        assert "placeholder shapes: incomplete export" in note
