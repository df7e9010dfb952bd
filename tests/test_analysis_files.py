"""Written analysis files have the form of the study scripts, read back as the same rows, and overwrite no file of others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import layerhouse as lh
from layerhouse import demo
from layerhouse.errors import NotFoundError
from layerhouse.tests.running import layerhouse
from layerhouse.warehouse.study.analysis_files import analysis_files

FILES = {
    "model_structure.json",
    "pruned_model_analysis.json",
    "original_model_analysis.json",
    "model_comparison.json",
    "pruning_comparison.json",
    "pruning_comparison.txt",
    "pruning_summary_by_layer.txt",
}
DATA = Path(__file__).parents[2] / "shared/data/llama3-8b"
LAYER_COLUMNS = "layer_index, params, attention_params, mlp_params, norm_params, num_heads, num_kv_heads, head_dim, " + (
    "intermediate_size, is_zero_layer"
)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    root = tmp_path_factory.mktemp("analysis") / "study"
    demo.write_study(root)
    lh.ingest([root / "baselines", root / "results"], warehouse=root / "w", base=root / demo.BASE)
    return root


def written(wh, model):
    return {
        name: json.loads(text) if name.endswith(".json") else text
        for name, text in analysis_files(wh.connection, model).items()
    }


def test_the_files_have_the_form_of_the_study(study):
    with lh.open(study / "w") as wh:
        files = written(wh, "results/HeadPrune_2000")
        assert set(files) == FILES
        assert files["model_structure.json"] == files["pruned_model_analysis.json"]
        pruned = files["pruned_model_analysis.json"]
        assert [*pruned] == ["model_name", "total_params", "embedding_params", "lm_head_params", "layers", "layer_summary"]
        assert pruned["model_name"] == "HeadPrune_2000"
        assert pruned["layers"][3] == {
            "layer_idx": 3,
            "total": 92416,
            "attention": {
                "q_proj": 8192,
                "k_proj": 4096,
                "v_proj": 4096,
                "o_proj": 8192,
                "total": 24576,
                "num_heads": 4,
                "num_kv_heads": 2,
                "head_dim": 16,
            },
            "mlp": {"gate_proj": 22528, "up_proj": 22528, "down_proj": 22528, "total": 67584, "intermediate_size": 176},
            "norm": 256,
            "is_zero_layer": False,
        }
        assert files["original_model_analysis.json"]["model_name"] == "Tiny-Base"
        pair = files["model_comparison.json"]["layers"][3]["mlp"]
        assert pair == {
            "original": 135168,
            "pruned": 67584,
            "reduced": 67584,
            "reduction_ratio": 0.5,
            "intermediate_size": {"original": 352, "pruned": 176},
        }
        assert files["pruning_comparison.json"] == files["model_comparison.json"]
        lines = files["pruning_summary_by_layer.txt"].splitlines()
        assert lines[3].split() == ["Layer", "Attention剪枝", "MLP剪枝", "总参数剪枝"]
        assert lines[8] == "3        2 groups (24,576 params)  176 channels (67,584 params)  92,160 params"
        assert lines[-2] == "总计       6 groups (73,728 params)  544 channels (208,896 params)  282,624 params"


def test_the_table_of_layers_is_found_and_read_as_the_study_does(study):
    """By a header that begins with Layer and names the parameters; then a line each: layer, both counts, share that is left;
    up to a line of `=`."""
    with lh.open(study / "w") as wh:
        lines = written(wh, "results/HeadPrune_2000")["pruning_comparison.txt"].splitlines()
    (header,) = (at for at, line in enumerate(lines) if line.startswith("Layer") and "总参数" in line)
    assert set(lines[header + 1]) == {"-"}
    table = lines[header + 2 :]
    end = next(at for at, line in enumerate(table) if line.startswith("="))
    found = {int(cells[0]): cells[1:4] for cells in map(str.split, table[:end])}
    assert [*found] == [*range(8)]
    assert found[3] == ["184,576", "92,416", "50.07%"]
    assert table[3].split()[4:] == ["49,152", "24,576", "135,168", "67,584"]


def test_removed_blocks_have_a_file_and_count_as_removed_completely(study):
    with lh.open(study / "w") as wh:
        files = written(wh, "baselines/ShortGPT_remove_2")
        assert files["layers_to_remove.json"] == {"layers_to_remove": [4, 5], "n_remove": 2, "original_num_layers": 8}
        assert len(files["model_comparison.json"]["layers"]) == 6
        lines = files["pruning_summary_by_layer.txt"].splitlines()
        assert lines[9] == "4        4 groups (49,152 params)  352 channels (135,168 params)  184,576 params"
        assert len(lines) == 5 + 8 + 3


@pytest.mark.parametrize("model", ["results/HeadPrune_2000", "baselines/ShortGPT_remove_2", "results/LLM-Pruner_2000"])
def test_written_files_read_back_as_the_same_rows(study, tmp_path, model):
    name = model.rpartition("/")[2]
    done = layerhouse("analysis", model, "-w", study / "w", "--output-dir", tmp_path / "again" / name / "analysis")
    assert done.returncode == 0
    assert done.stderr.count("wrote ") >= 5
    report = lh.ingest(tmp_path / "again", warehouse=tmp_path / "w")
    assert [event.kind for event in report.events] == ["taken"]
    where = "FROM layers WHERE checkpoint_id = (SELECT checkpoint_id FROM current_checkpoints WHERE model_id = "
    with lh.open(study / "w") as first, lh.open(tmp_path / "w") as second:
        sql = f"SELECT {LAYER_COLUMNS} {where}"
        expected_rows = first.sql(f"{sql} '{model}') ORDER BY layer_index").rows()
        assert second.sql(f"{sql} 'again/{name}') ORDER BY layer_index").rows() == expected_rows
        columns = "params, base_params, embedding_params, lm_head_params, removed_layers, reduction_ratio, retention_std"
        row = f"SELECT {columns} FROM models WHERE model_id = "
        assert second.sql(f"{row} 'again/{name}'").rows() == first.sql(f"{row} '{model}'").rows()


def test_a_base_and_unknown_models(study):
    with lh.open(study / "w") as wh:
        assert set(written(wh, "baselines/Tiny-Base")) == {"model_structure.json", "pruned_model_analysis.json"}
        with pytest.raises(NotFoundError, match="no model 'x'"):
            analysis_files(wh.connection, "x")


def test_a_file_of_another_program_is_overwritten_only_with_force(study, tmp_path):
    folder = tmp_path / "analysis"
    folder.mkdir()
    foreign_file = folder / "model_comparison.json"
    foreign_file.write_text("{}")
    command = ("analysis", "results/HeadPrune_2000", "-w", study / "w", "--output-dir", folder)
    refused = layerhouse(*command)
    assert refused.returncode == 2
    assert "model_comparison.json: exists with content that layerhouse did not write; --force overwrites it" in refused.stderr
    assert [path.name for path in folder.iterdir()] == ["model_comparison.json"]
    assert layerhouse(*command, "--force").returncode == 0
    assert json.loads(foreign_file.read_text())["pruned_name"] == "HeadPrune_2000"
    other = layerhouse("analysis", "baselines/ShortGPT_remove_2", *command[2:])
    assert other.returncode == 0
    assert json.loads(foreign_file.read_text())["pruned_name"] == "ShortGPT_remove_2"


def test_ingest_writes_the_files_next_to_each_model_and_does_not_read_them(tmp_path):
    demo.write_study(tmp_path)
    foreign_file = tmp_path / "results/LLM-Pruner_2000/analysis/pruned_model_analysis.json"
    foreign_file.parent.mkdir(parents=True)
    foreign_file.write_text("{}")
    command = (
        "ingest",
        "baselines",
        "results",
        "--base",
        demo.BASE,
        "--exclude",
        "*.txt",
        "-w",
        "w",
        "--write-analysis",
        "out",
    )
    first = layerhouse(*command, cwd=tmp_path)
    assert first.returncode == 1
    assert "content that layerhouse did not write" in first.stderr
    assert foreign_file.read_text() == "{}"
    assert set(FILES) <= {path.name for path in (tmp_path / "results/HeadPrune_2000/analysis").iterdir()}
    states = json.loads((tmp_path / "out/batch_analysis_results.json").read_text())
    assert {name: state["status"] for name, state in states.items()} == {
        "baselines/Magnitude_2of4": "success",
        "baselines/Magnitude_5000": "success",
        "baselines/ShortGPT_remove_2": "success",
        "baselines/Tiny-Base": "success",
        "results/HeadPrune_2000": "success",
        "results/LLM-Pruner_2000": "failed",
    }
    summary = json.loads((tmp_path / "out/models_summary.json").read_text())
    assert (summary["models_dir"], len(summary["models"])) == (str(tmp_path), 5)
    assert summary["models"][2]["name"] == "baselines/ShortGPT_remove_2"
    pruning = summary["models"][2]["pruning"]
    assert pruning["original_params"] - pruning["pruned_params"] == 2 * 184_576
    foreign_file.unlink()
    second = layerhouse(*command, cwd=tmp_path)
    assert second.returncode == 0
    assert second.stderr.count("unchanged ") == 6
    with lh.open(tmp_path / "w") as wh:
        assert set(wh.sql("SELECT DISTINCT source_kind FROM checkpoints").rows()) == {("weights",)}


@pytest.mark.skipif(not DATA.is_dir(), reason="the published study is not here")
@pytest.mark.parametrize("model", ["results/HGSP_2000", "baselines/ShortGPT_remove_7"])
def test_published_analyses_are_written_as_they_were_read(tmp_path, model):
    lh.ingest([DATA / "results", DATA / "baselines"], warehouse=tmp_path / "w")
    with lh.open(tmp_path / "w") as wh:
        files = written(wh, model)
        published = {path.name: json.loads(path.read_text()) for path in (DATA / model / "analysis").glob("*.json")}
        removal = published.pop("layers_to_remove.json", None)
        assert {name: files[name] for name in published} == published
        if removal is not None:
            assert files["layers_to_remove.json"] == removal | {"layers_to_remove": sorted(removal["layers_to_remove"])}
