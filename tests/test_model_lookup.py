"""Which model a result belongs to: by name, path, flattened name, last part, by hand; or none, and then it stands alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import layerhouse as lh
from layerhouse.errors import NotFoundError, UsageError
from layerhouse.ingest.results.model_lookup import (
    Match,
    Models,
    flat_name,
    name_alone,
)
from layerhouse.tests.running import layerhouse
from layerhouse.warehouse.admin.link_results import LinkRequest, link_results


@pytest.mark.parametrize(
    ("declared", "path", "match"),
    [
        ("zoo/a", "r/x.json", Match("zoo/a", "model_name")),
        ("{home}/zoo/a", "r/x.json", Match("zoo/a", "model_path")),
        ("{home}/zoo/a/", "r/x.json", Match("zoo/a", "model_path")),
        ("{home}/zoo/a/model.safetensors", "r/x.json", Match("zoo/a", "model_path")),
        ("org/a", "r/x.json", Match("zoo/a", "last_name")),
        ("a", "r/x.json", Match("zoo/a", "last_name")),
        (None, "r/zoo__b/x.json", Match("zoo/b", "flat_name")),
        ("other", "r/zoo__b/x.json", Match("zoo/b", "flat_name")),
        ("c", "r/x.json", Match(None, "declared", ("one/c", "two/c"))),
        ("org/nobody", "r/x.json", Match(None)),
        (None, "r/x.json", Match(None)),
        ("", "r/a/x.json", Match(None)),
    ],
)
def test_the_first_rule_that_holds(tmp_path, declared, path, match):
    names = ("zoo/a", "zoo/b", "one/c", "two/c")
    models = Models((name, str(tmp_path / name)) for name in names)
    declared = declared.format(home=tmp_path) if declared else declared
    assert models.find(declared, Path(path)) == match


def test_names_as_the_harness_flattens_them():
    assert flat_name("/mnt/models/tiny-p50") == "__mnt__models__tiny-p50"
    assert flat_name("./Meta/x") == ".__Meta__x"
    assert [name_alone(text) for text in ("/mnt/m/tiny", "org/tiny", "./a/b/", "x")] == ["tiny", "org/tiny", "b", "x"]


def put_model(folder):
    folder.mkdir(parents=True)
    save_file({"model.layers.0.mlp.up_proj.weight": torch.ones(8, 8)}, folder / "model.safetensors")


def put_result(path, model, score, *, date=1700000000.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"results": {"piqa": {"acc_norm,none": score}}, "versions": {"piqa": 1}, "date": date}
    document["config"] = {"model_args": f"pretrained={model},dtype=float16"}
    path.write_text(json.dumps(document))
    return path


def piqa_scores(wh):
    return dict(wh.sql("SELECT model_id, piqa FROM performance WHERE piqa IS NOT NULL").rows())


def test_two_runs_in_a_folder_of_flattened_names_and_samples_beside(tmp_path):
    put_model(tmp_path / "models/tiny-p50")
    folder = tmp_path / "out.json" / flat_name(str(tmp_path / "models/tiny-p50"))
    put_result(folder / "results_2025-01-01T00-00-00.1.json", tmp_path / "models/tiny-p50", 0.5)
    put_result(folder / "results_2025-01-02T00-00-00.1.json", tmp_path / "models/tiny-p50", 0.625, date=1800000000.0)
    (folder / "samples_piqa_2025-01-01T00-00-00.1.jsonl").write_text('{"doc_id": 0}\n')
    report = lh.ingest([tmp_path / "models", tmp_path / "out.json"], warehouse=tmp_path / "w")
    assert report.count("failed") == 0
    with lh.open(tmp_path / "w") as wh:
        assert piqa_scores(wh) == {"models/tiny-p50": 0.625}
        assert wh.sql("SELECT count(*) FROM results").item() == 2
        assert wh.sql("SELECT DISTINCT rule FROM result_links").rows() == [("model_path",)]
        assert wh.query("unlinked").height == 0


def test_results_without_a_model_stand_alone_until_it_comes(tmp_path):
    put_result(tmp_path / "out/a.json", "org/tiny", 0.5)
    put_result(tmp_path / "out/b.json", "org/other", 0.25)
    lh.ingest(tmp_path / "out", warehouse=tmp_path / "w")
    with lh.open(tmp_path / "w") as wh:
        assert piqa_scores(wh) == {"org/tiny": 0.5, "org/other": 0.25}
        assert wh.query("unlinked")["model_id"].to_list() == ["org/tiny", "org/other"]
    put_model(tmp_path / "zoo/tiny")
    lh.ingest([tmp_path / "zoo", tmp_path / "out"], warehouse=tmp_path / "w")
    with lh.open(tmp_path / "w") as wh:
        assert piqa_scores(wh) == {"zoo/tiny": 0.5, "org/other": 0.25}
        assert wh.sql("SELECT count(*) FROM results").item() == 2
        assert wh.query("unlinked")["model_id"].to_list() == ["org/other"]
    again = lh.ingest([tmp_path / "zoo", tmp_path / "out"], warehouse=tmp_path / "w")
    assert {event.kind for event in again.events} == {"unchanged"}


def test_a_table_of_several_models_is_linked_row_by_row(tmp_path):
    put_model(tmp_path / "zoo/a")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/all.csv").write_text("model,piqa/acc_norm\na,0.5\nb,0.75\n")
    lh.ingest([tmp_path / "zoo", tmp_path / "out"], warehouse=tmp_path / "w")
    with lh.open(tmp_path / "w") as wh:
        assert piqa_scores(wh) == {"zoo/a": 0.5, "b": 0.75}


@pytest.mark.parametrize("place", ["zoo/a/all.csv", "zoo/a/evaluation/all.csv"])
def test_a_table_of_several_models_in_the_folder_of_one_is_linked_row_by_row(tmp_path, place):
    put_model(tmp_path / "zoo/a")
    put_model(tmp_path / "zoo/c")
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_text("model,piqa/acc_norm\na,0.5\nb,0.75\nc,0.25\n")
    lh.ingest(tmp_path / "zoo", warehouse=tmp_path / "w")
    with lh.open(tmp_path / "w") as wh:
        assert piqa_scores(wh) == {"zoo/a": 0.5, "b": 0.75, "zoo/c": 0.25}
    again = lh.ingest(tmp_path / "zoo", warehouse=tmp_path / "w")
    assert {event.kind for event in again.events} == {"unchanged"}


def test_an_ambiguous_name_is_said_and_a_link_by_hand_holds(tmp_path):
    put_model(tmp_path / "one/c")
    put_model(tmp_path / "two/c")
    file = put_result(tmp_path / "out/c.json", "c", 0.5)
    roots = [tmp_path / "one", tmp_path / "two", tmp_path / "out"]
    report = lh.ingest(roots, warehouse=tmp_path / "w")
    texts = [event.what for event in report.events if event.kind == "passed"]
    assert texts == ["names 'c', which one/c, two/c could be; link it with: layerhouse link FILE MODEL"]
    with lh.open(tmp_path / "w") as wh:
        assert wh.query("unlinked")["candidates"].to_list() == [["one/c", "two/c"]]
    done = layerhouse("link", file, "two/c", "-w", tmp_path / "w")
    assert (done.returncode, done.stderr) == (0, "linked 1 result file\n")
    lh.ingest(roots, warehouse=tmp_path / "w")
    with lh.open(tmp_path / "w") as wh:
        assert piqa_scores(wh) == {"two/c": 0.5}
        assert wh.query("unlinked").height == 0


def test_links_from_a_table_are_all_made_or_none(tmp_path):
    put_model(tmp_path / "zoo/a")
    for name in ("x", "y"):
        put_result(tmp_path / f"out/{name}.json", f"org/{name}", 0.5)
    lh.ingest([tmp_path / "zoo", tmp_path / "out"], warehouse=tmp_path / "w")
    table = tmp_path / "links.csv"
    table.write_text("file,model\nout/x.json,zoo/a\nout/z.json,zoo/a\n")
    refused = layerhouse("link", "--from", table, "-w", tmp_path / "w")
    assert refused.returncode == 2
    assert "no results of this file in the warehouse; take it with: layerhouse ingest" in refused.stderr
    with lh.open(tmp_path / "w") as wh:
        assert set(piqa_scores(wh)) == {"org/x", "org/y"}
    table.write_text("file,model\nout/x.json,zoo/a\n")
    assert layerhouse("link", "--from", table, "-w", tmp_path / "w").returncode == 0
    with lh.open(tmp_path / "w") as wh:
        assert set(piqa_scores(wh)) == {"zoo/a", "org/y"}
    table.write_text("file,model\nout/x.json,\n")
    assert "line 2: a line has a file and a model" in layerhouse("link", "--from", table, "-w", tmp_path / "w").stderr
    assert layerhouse("link", "-w", tmp_path / "w").returncode == 2
    with pytest.raises(NotFoundError, match="no model 'zoo/b'"):
        link_results(tmp_path / "w", [LinkRequest(str(tmp_path / "out/x.json"), "zoo/b")])
    with pytest.raises(UsageError):
        link_results(tmp_path / "w", [LinkRequest(str(tmp_path / "out/q.json"), "zoo/a")])


def test_shots_and_caps_never_share_a_column(tmp_path):
    put_model(tmp_path / "zoo/a")
    for name, config in {
        "zero": {"num_fewshot": 0},
        "five": {"num_fewshot": 5},
        "capped": {"num_fewshot": 0, "limit": 10},
    }.items():
        score = {"zero": 0.5, "five": 0.75, "capped": 0.9}[name]
        document = {
            "results": {"piqa": {"acc_norm,none": score}},
            "versions": {},
            "config": {"model_args": "pretrained=a", **config},
        }
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / f"out/{name}.json").write_text(json.dumps(document))
    lh.ingest([tmp_path / "zoo", tmp_path / "out"], warehouse=tmp_path / "w")
    with lh.open(tmp_path / "w") as wh:
        assert piqa_scores(wh) == {"zoo/a": 0.5}
        others = dict(wh.sql("SELECT measure, value FROM measures WHERE kind = 'score'").rows())
        assert others == {"piqa/acc_norm@5shot": 0.75, "piqa/acc_norm@limit10": 0.9}
