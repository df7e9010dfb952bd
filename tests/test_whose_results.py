"""Whose a result is: of files without a model's name, tables of several, adapters, snapshots; before and after a model."""

from __future__ import annotations

import json
import shlex
import struct
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

import layerhouse as lh
from layerhouse.ingest.declarations.declare import declare
from layerhouse.ingest.declarations.method_patterns import compile_method_pattern, declare_by_patterns
from layerhouse.ingest.results.model_lookup import Match, Models, last_name
from layerhouse.ingest.results.nameless import NamelessFile, model_in_file_name, model_names
from layerhouse.tests.running import layerhouse
from layerhouse.tests.weight_files import entry, safetensors_bytes
from layerhouse.warehouse.admin.link_results import LinkRequest, link_results
from layerhouse.warehouse.admin.removals import drop_model, rename_model
from layerhouse.warehouse.answers.session import connect

OLD, NEW = "a1b2c3d4" * 5, "0f0e0d0c" * 5


def put_model(folder: Path, value: float = 1.0, name: str = "model.safetensors") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {"model.layers.0.mlp.up_proj.weight": entry("F32", [2, 2], 0, 16)}
    (folder / name).write_bytes(safetensors_bytes(tensors, struct.pack("<4f", *[value] * 4)))
    return folder


def put_result(path: Path, score: float, model_args: str | None = None, *, task: str = "piqa", **config: object) -> Path:
    """A result of lm-evaluation-harness; without a model's name unless `model_args` has one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"results": {task: {"acc_norm,none": score}}, "versions": {task: 1}, "date": 1700000000.0}
    document["config"] = {"model_args": model_args, **config}
    path.write_text(json.dumps(document))
    return path


def answer(warehouse: Path, sql: str) -> list[tuple[Any, ...]]:
    """Rows of tables and the view of links, which are there sooner than all views."""
    connection, _ = connect(warehouse, asked=sql)
    with connection:
        return connection.execute(sql).fetchall()


def owners(warehouse: Path) -> dict[float, str]:
    """The model of each score; a score that no model has is missing."""
    rows = answer(
        warehouse, "SELECT value, result_links.model_id FROM results JOIN result_links USING (result_id) ORDER BY ALL"
    )
    assert len({value for value, _ in rows}) == len(rows)
    return dict(rows)


def names_in(warehouse: Path) -> list[str]:
    return [name for (name,) in answer(warehouse, "SELECT DISTINCT model_id FROM sightings ORDER BY 1")]


def rules(warehouse: Path) -> dict[str, str]:
    return dict(answer(warehouse, "SELECT model_id, rule FROM result_links ORDER BY ALL"))


def lines(report: lh.Report, *kinds: str) -> list[str]:
    return [event.what for event in report.events if event.kind in kinds]


# Files that name no model


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("pythia-1.4b_results.json", "pythia-1.4b"),
        ("pythia-160m_results", "pythia-160m"),
        ("eval_llama-7b_2024-05-01.json", "llama-7b"),
        ("results_2024-05-01T03-44-18.458309_pythia.json", "pythia"),
        ("llama_13.json", "llama_13"),
        ("模型_results.json", "模型"),
        ("results_2024-05-01T12-00-00.123456.json", None),
        ("20240501-120000.json", None),
        ("full_results_0_shot.json", None),
        ("ppl_128.json", None),
        ("results_1.json", None),
        ("run_2.json", None),
        ("seed_42.json", None),
        ("lm_eval_results", None),
        (".json", None),
    ],
)
def test_what_the_name_of_a_file_says_of_a_model(name, model):
    assert model_in_file_name(Path(name)) == model


def file(name: str, *measures: str, model_id: str | None = None, is_name_kept: bool = False) -> NamelessFile:
    return NamelessFile(Path(name), frozenset(measures), model_id, is_name_kept)


@pytest.mark.parametrize(
    ("files", "names"),
    [
        ([file("a.json", "x"), file("b.json", "x")], ["f/a", "f/b"]),
        ([file("a.json", "x"), file("b.json", "y")], ["f", "f"]),
        ([file("a.json", "x"), file("results.json", "x")], ["f", "f"]),
        ([file("a.json", "x"), file("a_2024-05-01.json", "x")], ["f", "f"]),
        ([file("a.json", "x"), file("b.json", "x", "y"), file("c.json", "z"), file("1.json", "y")], ["f/a", "f/b", "f/c", "f"]),
        ([file("a.json", "x", model_id="f/a")], ["f/a"]),
        ([file("a.json", "x", model_id="f"), file("b.json", "x")], ["f/a", "f/b"]),
        ([file("a.json", "x", model_id="mine", is_name_kept=True), file("b.json", "x")], ["mine", "f/b"]),
    ],
)
def test_files_of_a_folder_are_of_one_model_unless_two_measured_the_same(files, names):
    assert model_names(files, "f") == names


@pytest.mark.parametrize("order", [*permutations(("big", "small")), (("big", "small"),)], ids=str)
@pytest.mark.parametrize("is_alone", [False, True], ids=["folder", "file"])
def test_two_files_of_a_folder_that_name_no_model_are_two_models_in_any_order(tmp_path, order, is_alone):
    scores, folder = {"big": 0.75, "small": 0.5}, tmp_path / "q"
    texts = []
    for names in order:
        files = [
            put_result(folder / f"{name}_results.json", scores[name]) for name in ([names] if isinstance(names, str) else names)
        ]
        report = lh.ingest(files if is_alone else folder, warehouse=tmp_path / "w")
        texts += lines(report, "passed")
        assert report.count("failed") == 0
    top = f"{tmp_path.name}/q"
    assert owners(tmp_path / "w") == {0.5: f"{top}/small", 0.75: f"{top}/big"}
    assert len(texts) == 1
    assert "others of the folder measured the same: each is a model of its own, such as" in texts[0]
    assert lines(lh.ingest(folder, warehouse=tmp_path / "w")) == []
    assert lh.ingest(folder, warehouse=tmp_path / "w").count("unchanged") == 1


def test_files_of_other_measures_and_files_named_by_times_are_of_the_folders_model(tmp_path):
    for index, name in enumerate(("wikitext", "hellaswag", "results_2024-05-01T00-00-00", "results_2024-06-01T00-00-00")):
        put_result(tmp_path / f"my_model/{name}.json", index / 8, task=name if index < 2 else "piqa")
    lh.ingest(tmp_path / "my_model", warehouse=tmp_path / "w")
    assert set(owners(tmp_path / "w").values()) == {f"{tmp_path.name}/my_model"}


@pytest.mark.parametrize("inside", ["", "evaluation/"])
def test_files_without_a_name_in_a_models_folder_are_the_models(tmp_path, inside):
    put_model(tmp_path / "zoo/a")
    for index, name in enumerate(("first", "second")):
        put_result(tmp_path / f"zoo/a/{inside}{name}.json", index / 8)
    lh.ingest(tmp_path / "zoo", warehouse=tmp_path / "w")
    assert owners(tmp_path / "w") == {0.0: "zoo/a", 0.125: "zoo/a"}
    put_result(tmp_path / f"zoo/a/{inside}third.json", 0.25)
    lh.ingest(tmp_path / f"zoo/a/{inside}third.json", warehouse=tmp_path / "w")
    assert set(rules(tmp_path / "w").items()) == {("zoo/a", "folder")}


def test_a_file_is_no_models_because_its_name_is_the_models(tmp_path):
    put_model(tmp_path / "zoo/a")
    put_result(tmp_path / "zoo/a.json", 0.25)
    put_result(tmp_path / "zoo/b.json", 0.5)
    lh.ingest(tmp_path / "zoo", warehouse=tmp_path / "w")
    assert owners(tmp_path / "w") == {0.25: f"{tmp_path.name}/zoo/a.json", 0.5: f"{tmp_path.name}/zoo/b"}


def test_a_renamed_folder_of_results_keeps_its_name_and_no_second_model_joins_it(tmp_path):
    first = put_result(tmp_path / "q/small.json", 0.5)
    lh.ingest(first, warehouse=tmp_path / "w")
    rename_model(tmp_path / "w", f"{tmp_path.name}/q", "tiny")
    assert lh.ingest(tmp_path / "q", warehouse=tmp_path / "w").count("taken") == 0
    put_result(tmp_path / "q/other.json", 0.625, task="boolq")
    lh.ingest(tmp_path / "q", warehouse=tmp_path / "w")
    assert owners(tmp_path / "w") == {0.5: "tiny", 0.625: "tiny"}
    put_result(tmp_path / "q/big.json", 0.75)
    lh.ingest(tmp_path / "q", warehouse=tmp_path / "w")
    assert owners(tmp_path / "w")[0.5] != owners(tmp_path / "w")[0.75]
    assert owners(tmp_path / "w")[0.5] == "tiny"


# Links by hand


@pytest.fixture
def table(tmp_path):
    """A warehouse with a table of three models, none of which is there, and a model `org/Mine`."""
    put_model(tmp_path / "org/Mine")
    path = tmp_path / "my out/scores.csv"
    path.parent.mkdir()
    path.write_text("model,task,metric,value\na,piqa,acc,0.25\nb,piqa,acc,0.5\nit's c,piqa,acc,0.75\n")
    lh.ingest([tmp_path / "org", tmp_path / "my out"], warehouse=tmp_path / "w")
    return path


def test_a_table_of_several_models_is_linked_one_by_one(tmp_path, table):
    refused = layerhouse("link", table, "org/Mine", "-w", tmp_path / "w")
    names = """results of 3 models: 'a', 'b', "it's c"; link those of one, such as with: layerhouse link"""
    assert refused.returncode == 2
    assert f"{table}: {names} '{table}' org/Mine --of a\n" in refused.stderr
    assert owners(tmp_path / "w") == {0.25: "a", 0.5: "b", 0.75: "it's c"}
    done = layerhouse("link", table, "org/Mine", "--of", "it's c", "-w", tmp_path / "w")
    assert (done.returncode, done.stderr) == (0, "linked 1 result file\n")
    assert owners(tmp_path / "w") == {0.25: "a", 0.5: "b", 0.75: "org/Mine"}
    unknown = layerhouse("link", table, "org/Mine", "--of", "d", "-w", tmp_path / "w")
    assert """no results of 'd' in it; there is 'a', 'b', "it's c\"""" in unknown.stderr
    links = tmp_path / "links.csv"
    links.write_text("file,model,of\nmy out/scores.csv,org/Mine,a\n")
    assert layerhouse("link", "--from", links, "-w", tmp_path / "w").returncode == 0
    assert owners(tmp_path / "w") == {0.25: "org/Mine", 0.5: "b", 0.75: "org/Mine"}
    assert layerhouse("link", "--from", links, "--of", "a", "-w", tmp_path / "w").returncode == 2


def test_the_command_of_a_query_does_what_it_says(tmp_path, table):
    with lh.open(tmp_path / "w") as wh:
        unlinked = wh.query("unlinked")
    assert unlinked["reason"].to_list() == ["no model of that name"] * 3
    command = unlinked["command"].to_list()[2]
    assert command == f"""layerhouse link '{table}' MODEL --of 'it'"'"'s c'"""
    done = layerhouse(*shlex.split(command.replace("MODEL", "org/Mine"))[1:], "-w", tmp_path / "w")
    assert (done.returncode, owners(tmp_path / "w")[0.75]) == (0, "org/Mine")


def test_a_link_by_hand_holds_when_the_file_is_written_again(tmp_path, table):
    link_results(tmp_path / "w", [LinkRequest(str(table), "org/Mine", "b")])
    table.write_text(table.read_text().replace("0.5", "0.625"))
    lh.ingest(table.parent, warehouse=tmp_path / "w")
    assert owners(tmp_path / "w") == {0.25: "a", 0.625: "org/Mine", 0.75: "it's c"}


def test_two_names_of_one_model_in_a_table_lose_no_row(tmp_path):
    put_model(tmp_path / "zoo/a")
    path = tmp_path / "all.csv"
    path.write_text("model,task,metric,value\nzoo/a,piqa,acc,0.25\norg/a,boolq,acc,0.5\na,arc_easy,acc,0.75\n")
    lh.ingest([tmp_path / "zoo", path], warehouse=tmp_path / "w")
    assert owners(tmp_path / "w") == dict.fromkeys((0.25, 0.5, 0.75), "zoo/a")


# Results before their model, and after it was dropped or renamed


def test_results_find_a_model_that_comes_later_without_their_files(tmp_path):
    kept = put_result(tmp_path / "out/a.json", 0.5, "pretrained=org/tiny")
    put_result(tmp_path / "out/b.json", 0.25, "pretrained=org/other")
    lh.ingest(tmp_path / "out", warehouse=tmp_path / "w")
    put_model(tmp_path / "zoo/tiny")
    kept.unlink()
    dry = lh.ingest(tmp_path / "zoo", warehouse=tmp_path / "w", dry_run=True)
    assert "1 result file of earlier ingests" in lines(dry, "planned")
    assert owners(tmp_path / "w")[0.5] == "org/tiny"
    report = lh.ingest(tmp_path / "zoo", warehouse=tmp_path / "w")
    assert lines(report, "taken")[1:] == ["1 result file of earlier ingests"]
    assert owners(tmp_path / "w") == {0.5: "zoo/tiny", 0.25: "org/other"}
    assert rules(tmp_path / "w") == {"zoo/tiny": "last_name", "org/other": "declared"}
    assert lh.ingest(tmp_path / "zoo", warehouse=tmp_path / "w").count("taken") == 0


def test_results_of_a_model_that_could_not_be_read_wait_for_it(tmp_path):
    put_result(tmp_path / "out/a.json", 0.5, "pretrained=org/tiny")
    lh.ingest(tmp_path / "out", warehouse=tmp_path / "w")
    put_model(tmp_path / "zoo/tiny")
    whole = (tmp_path / "zoo/tiny/model.safetensors").read_bytes()
    (tmp_path / "zoo/tiny/model.safetensors").write_bytes(whole[:40])
    assert lh.ingest(tmp_path / "zoo", warehouse=tmp_path / "w").count("failed") == 1
    assert owners(tmp_path / "w") == {0.5: "org/tiny"}
    (tmp_path / "zoo/tiny/model.safetensors").write_bytes(whole)
    lh.ingest(tmp_path / "zoo", warehouse=tmp_path / "w")
    assert owners(tmp_path / "w") == {0.5: "zoo/tiny"}


def test_two_models_that_come_later_and_could_both_be_meant_get_nothing(tmp_path):
    put_result(tmp_path / "out/a.json", 0.5, "pretrained=/mnt/x/tiny")
    lh.ingest(tmp_path / "out", warehouse=tmp_path / "w")
    assert owners(tmp_path / "w") == {0.5: "tiny"}
    put_model(tmp_path / "zoo/tiny")
    put_model(tmp_path / "all/tiny")
    lh.ingest([tmp_path / "zoo", tmp_path / "all"], warehouse=tmp_path / "w")
    assert owners(tmp_path / "w") == {0.5: "tiny"}
    with lh.open(tmp_path / "w") as wh:
        assert wh.query("unlinked").select("reason", "candidates").rows() == [("several candidates", ["all/tiny", "zoo/tiny"])]


def test_results_without_a_model_are_not_those_of_a_later_model_that_has_their_name(tmp_path):
    put_result(tmp_path / "out/a.json", 0.5, "pretrained=/mnt/x/tiny")
    lh.ingest(tmp_path / "out", warehouse=tmp_path / "w")
    assert owners(tmp_path / "w") == {0.5: "tiny"}
    put_model(tmp_path / "zoo/tiny")
    put_model(tmp_path / f"hub/models--tiny/snapshots/{OLD}")
    report = lh.ingest([tmp_path / "zoo", tmp_path / "hub"], warehouse=tmp_path / "w")
    assert [event.where for event in report.events if event.kind == "taken"] == ["zoo/tiny", "tiny"]
    assert lines(report, "passed") == [
        "nothing says that these results are of the model tiny which is there now: they are tiny (unlinked)"
    ]
    put_result(tmp_path / "out/b.json", 0.25, "pretrained=/mnt/y/tiny")
    lh.ingest(tmp_path / "out", warehouse=tmp_path / "w")
    assert owners(tmp_path / "w") == {0.25: "tiny (unlinked)", 0.5: "tiny (unlinked)"}


@pytest.mark.parametrize("again", ["weights", "results", "results, then weights", "weights, then results", "both"])
def test_scores_are_back_when_a_dropped_model_is_ingested_again(tmp_path, again):
    put_model(tmp_path / "zoo/tiny")
    put_result(tmp_path / "out/a.json", 0.5, "pretrained=org/tiny")
    put_result(tmp_path / "zoo/tiny/evaluation/b.json", 0.25)
    by_hand = put_result(tmp_path / "out/c.json", 0.75, "pretrained=org/nobody")
    lh.ingest([tmp_path / "zoo", tmp_path / "out"], warehouse=tmp_path / "w")
    link_results(tmp_path / "w", [LinkRequest(str(by_hand), "zoo/tiny")])
    before = owners(tmp_path / "w")
    assert before == dict.fromkeys((0.25, 0.5, 0.75), "zoo/tiny")
    drop_model(tmp_path / "w", "zoo/tiny")
    assert owners(tmp_path / "w") == {}
    folders = {"weights": tmp_path / "zoo", "results": tmp_path / "out"}
    for step in [[*folders]] if again == "both" else [[name] for name in again.split(", then ")]:
        lh.ingest([folders[name] for name in step], warehouse=tmp_path / "w")
    if again == "results":
        assert owners(tmp_path / "w") == {0.5: "org/tiny", 0.75: "org/nobody"}
    elif again == "results, then weights":
        assert owners(tmp_path / "w") == {0.25: "zoo/tiny", 0.5: "zoo/tiny", 0.75: "org/nobody"}
    elif again == "both":
        assert {**owners(tmp_path / "w"), 0.75: None} == {0.25: "zoo/tiny", 0.5: "zoo/tiny", 0.75: None}
    else:
        assert owners(tmp_path / "w") == before
    assert answer(tmp_path / "w", "SELECT count(*) FROM results") == [(3,)]


def test_scores_of_a_dropped_model_are_not_those_of_another_one(tmp_path):
    put_model(tmp_path / "x/zoo/tiny")
    put_result(tmp_path / "x/zoo/tiny/evaluation/b.json", 0.25)
    put_result(tmp_path / "out/a.json", 0.5, "pretrained=org/tiny")
    lh.ingest([tmp_path / "x/zoo", tmp_path / "out"], warehouse=tmp_path / "w")
    drop_model(tmp_path / "w", "zoo/tiny")
    put_model(tmp_path / "y/all/tiny")
    lh.ingest(tmp_path / "y/all", warehouse=tmp_path / "w")
    assert owners(tmp_path / "w") == {}


def test_newer_contents_of_a_file_stay_when_their_model_comes_back(tmp_path):
    put_model(tmp_path / "zoo/tiny")
    path = put_result(tmp_path / "out/a.json", 0.5, "pretrained=zoo/tiny")
    lh.ingest([tmp_path / "zoo", tmp_path / "out"], warehouse=tmp_path / "w")
    put_result(path, 0.625, "pretrained=zoo/tiny")
    lh.ingest(tmp_path / "out", warehouse=tmp_path / "w")
    drop_model(tmp_path / "w", "zoo/tiny")
    put_result(path, 0.75, "pretrained=zoo/tiny")
    lh.ingest([tmp_path / "zoo", tmp_path / "out"], warehouse=tmp_path / "w")
    assert owners(tmp_path / "w") == {0.75: "zoo/tiny"}
    drop_model(tmp_path / "w", "zoo/tiny")
    lh.ingest(tmp_path / "zoo", warehouse=tmp_path / "w")
    assert owners(tmp_path / "w") == {0.75: "zoo/tiny"}


def test_a_renamed_model_has_its_results_by_either_name(tmp_path):
    put_model(tmp_path / "zoo/tiny")
    lh.ingest(tmp_path / "zoo", warehouse=tmp_path / "w")
    rename_model(tmp_path / "w", "zoo/tiny", "best")
    put_result(tmp_path / "out/a.json", 0.5, "pretrained=zoo/tiny")
    put_result(tmp_path / "out/b.json", 0.25, "pretrained=best")
    put_result(tmp_path / "out/c.json", 0.75, "pretrained=org/tiny")
    lh.ingest(tmp_path / "out", warehouse=tmp_path / "w")
    assert owners(tmp_path / "w") == dict.fromkeys((0.25, 0.5, 0.75), "best")
    drop_model(tmp_path / "w", "best")
    lh.ingest(tmp_path / "zoo", warehouse=tmp_path / "w")
    assert owners(tmp_path / "w") == {0.5: "zoo/tiny", 0.75: "zoo/tiny"}


def test_results_that_were_renamed_keep_the_name_until_their_model_comes(tmp_path):
    put_result(tmp_path / "out/a.json", 0.5, "pretrained=org/tiny")
    lh.ingest(tmp_path / "out", warehouse=tmp_path / "w")
    rename_model(tmp_path / "w", "org/tiny", "mine")
    assert lh.ingest(tmp_path / "out", warehouse=tmp_path / "w").count("taken") == 0
    assert owners(tmp_path / "w") == {0.5: "mine"}
    put_model(tmp_path / "zoo/tiny")
    lh.ingest(tmp_path / "zoo", warehouse=tmp_path / "w")
    assert owners(tmp_path / "w") == {0.5: "zoo/tiny"}


# Adapters


ADAPTER = "adapter_model.safetensors"


@pytest.mark.parametrize("peft", ["zoo/lora", "org/lora", "{home}/zoo/lora"])
@pytest.mark.parametrize("is_before", [False, True], ids=["after", "before"])
def test_the_results_of_an_adapter_are_the_adapters(tmp_path, peft, is_before):
    put_model(tmp_path / "zoo/base")
    put_result(tmp_path / "out/a.json", 0.5, f"pretrained=zoo/base,peft={peft.format(home=tmp_path)}")
    put_result(tmp_path / "out/b.json", 0.25, "pretrained=zoo/base")
    if is_before:
        lh.ingest([tmp_path / "zoo", tmp_path / "out"], warehouse=tmp_path / "w")
        assert owners(tmp_path / "w") == {0.25: "zoo/base", 0.5: "zoo/base"}
    put_model(tmp_path / "zoo/lora", 2.0, ADAPTER)
    roots = [tmp_path / "zoo"] if is_before else [tmp_path / "zoo", tmp_path / "out"]
    lh.ingest(roots, warehouse=tmp_path / "w")
    assert owners(tmp_path / "w") == {0.25: "zoo/base", 0.5: "zoo/lora"}
    links = answer(tmp_path / "w", "SELECT model_id, is_adapter FROM result_links ORDER BY 1")
    assert links == [("zoo/base", False), ("zoo/lora", True)]


def test_of_several_adapters_of_a_name_none_is_chosen(tmp_path):
    put_model(tmp_path / "zoo/base")
    put_model(tmp_path / "zoo/x/lora", 2.0, ADAPTER)
    put_model(tmp_path / "zoo/y/lora", 3.0, ADAPTER)
    put_result(tmp_path / "out/a.json", 0.5, "pretrained=zoo/base,peft=org/lora")
    report = lh.ingest([tmp_path / "zoo", tmp_path / "out"], warehouse=tmp_path / "w")
    assert lines(report, "passed") == [
        "names the adapter 'org/lora', which zoo/x/lora, zoo/y/lora could be; link it with: layerhouse link FILE MODEL"
    ]
    assert owners(tmp_path / "w") == {0.5: "zoo/base"}


def test_adapters_that_could_be_meant_are_named_where_the_model_under_them_is_unknown(tmp_path):
    put_model(tmp_path / "zoo/x/lora", 2.0, ADAPTER)
    put_model(tmp_path / "zoo/y/lora", 3.0, ADAPTER)
    put_result(tmp_path / "out/a.json", 0.5, "pretrained=org/base,peft=org/lora")
    report = lh.ingest([tmp_path / "zoo", tmp_path / "out"], warehouse=tmp_path / "w")
    assert "names the adapter 'org/lora', which zoo/x/lora, zoo/y/lora could be" in lines(report, "passed")[0]
    assert owners(tmp_path / "w") == {0.5: "org/base"}
    drop_model(tmp_path / "w", "zoo/x/lora")
    lh.ingest(tmp_path / "zoo/y", warehouse=tmp_path / "w")
    assert owners(tmp_path / "w") == {0.5: "zoo/y/lora"}


def test_results_in_a_bases_folder_may_be_of_its_adapter_and_those_in_an_adapters_folder_are_its_own(tmp_path):
    put_model(tmp_path / "zoo/base")
    put_model(tmp_path / "zoo/lora", 2.0, ADAPTER)
    put_model(tmp_path / "zoo/copy", 3.0, ADAPTER)
    put_result(tmp_path / "zoo/base/evaluation/a.json", 0.5, "pretrained=zoo/base,peft=zoo/lora")
    put_result(tmp_path / "zoo/base/evaluation/b.json", 0.25, "pretrained=zoo/base,peft=org/nobody")
    put_result(tmp_path / "zoo/copy/evaluation/c.json", 0.75, "pretrained=zoo/base,peft=zoo/lora")
    put_result(tmp_path / "zoo/base/evaluation/d.json", 0.125, f"pretrained=zoo/base,peft={tmp_path}/zoo/base/inner")
    lh.ingest(tmp_path / "zoo", warehouse=tmp_path / "w")
    assert owners(tmp_path / "w") == {0.125: "zoo/base", 0.25: "zoo/base", 0.5: "zoo/lora", 0.75: "zoo/copy"}


def test_a_last_part_that_many_models_have_names_none_of_them():
    models = Models([("run1/checkpoint-10", "/x/run1/checkpoint-10"), ("zoo/model", "/x/zoo/model")])
    assert models.find("/mnt/run2/checkpoint-10", Path("r.json")) == Match(None)
    assert models.find("/mnt/run1/checkpoint-10", Path("r.json")) == Match("run1/checkpoint-10", "last_name")
    assert models.find("model", Path("r.json")) == Match(None)
    assert [last_name(text) for text in ("./model", "a/b/final", "a/b", "checkpoint-1")] == [
        "model",
        "b/final",
        "b",
        "checkpoint-1",
    ]


# Hub caches


def put_snapshot(hub: Path, commit: str, value: float, *, refs: tuple[str, ...] = ()) -> Path:
    """A snapshot as huggingface_hub stores it: links to blobs, and the branches that have its commit."""
    repository = hub / "models--org--name"
    blob = f"{value}{commit}"
    put_model(repository / "blobs", value, blob)
    (repository / "snapshots" / commit).mkdir(parents=True)
    (repository / "snapshots" / commit / "model.safetensors").symlink_to(f"../../blobs/{blob}")
    for ref in refs:
        (repository / "refs" / ref).parent.mkdir(parents=True, exist_ok=True)
        (repository / "refs" / ref).write_text(commit)
    return repository / "snapshots" / commit


def test_two_snapshots_of_a_repository_are_two_models_with_their_results(tmp_path):
    for commit, value in ((OLD, 1.0), (NEW, 2.0)):
        put_result(put_snapshot(tmp_path / "hub", commit, value) / "evaluation/a.json", value / 4)
    report = lh.ingest(tmp_path / "hub", warehouse=tmp_path / "w")
    assert report.count("failed") == 0
    assert owners(tmp_path / "w") == {0.25: "org/name@a1b2c3d4", 0.5: "org/name@0f0e0d0c"}
    with lh.open(tmp_path / "w") as wh:
        tags = wh.sql("SELECT model_id, tags['revision'] FROM models ORDER BY 1").rows()
    assert tags == [("org/name@0f0e0d0c", NEW), ("org/name@a1b2c3d4", OLD)]


def test_a_snapshot_has_one_name_whether_or_not_the_others_are_looked_at(tmp_path):
    first = put_snapshot(tmp_path / "hub", OLD, 1.0, refs=("main",))
    (tmp_path / "hub/models--org--name/snapshots" / NEW).mkdir()
    (tmp_path / "hub/models--org--name/snapshots" / NEW / "config.json").write_text("{}")
    lh.ingest(first, warehouse=tmp_path / "alone")
    assert names_in(tmp_path / "alone") == ["org/name"]
    (tmp_path / "hub/models--org--name/snapshots" / NEW / "config.json").unlink()
    (tmp_path / "hub/models--org--name/snapshots" / NEW).rmdir()
    put_snapshot(tmp_path / "hub", NEW, 2.0, refs=("main",))
    lh.ingest(first, warehouse=tmp_path / "two")
    assert names_in(tmp_path / "two") == ["org/name@a1b2c3d4"]
    report = lh.ingest(tmp_path / "hub", warehouse=tmp_path / "alone")
    assert report.count("failed") == 0
    assert sorted(names_in(tmp_path / "alone")) == ["org/name", "org/name@0f0e0d0c"]


@pytest.mark.parametrize(
    ("revision", "owner"),
    [
        (OLD, "org/name@a1b2c3d4"),
        (NEW, "org/name@0f0e0d0c"),
        (NEW[:7], "org/name@0f0e0d0c"),
        ("main", "org/name@0f0e0d0c"),
        ("pr/1", "org/name@a1b2c3d4"),
        ("step3000", None),
        ("c" * 40, None),
        ("../snapshots", None),
        (None, None),
    ],
)
def test_a_result_goes_to_the_snapshot_of_its_revision(tmp_path, revision, owner):
    put_snapshot(tmp_path / "hub", OLD, 1.0, refs=("pr/1",))
    put_snapshot(tmp_path / "hub", NEW, 2.0, refs=("main",))
    (tmp_path / "hub/models--org--name/refs/odd").mkdir()
    arguments = "pretrained=org/name" + (f",revision={revision}" if revision else "")
    put_result(tmp_path / "out/org__name/a.json", 0.5, arguments)
    report = lh.ingest([tmp_path / "hub", tmp_path / "out"], warehouse=tmp_path / "w")
    assert owners(tmp_path / "w") == {0.5: owner or "org/name"}
    said = ["names 'org/name', which org/name@0f0e0d0c, org/name@a1b2c3d4 could be; link it with: layerhouse link FILE MODEL"]
    assert lines(report, "passed") == ([] if owner else said)


def test_results_of_a_repository_with_a_snapshot_of_its_bare_name_are_not_that_snapshots(tmp_path):
    lh.ingest(put_snapshot(tmp_path / "hub", OLD, 1.0), warehouse=tmp_path / "w")
    put_result(tmp_path / "out/a.json", 0.5, "pretrained=org/name")
    lh.ingest(tmp_path / "out", warehouse=tmp_path / "w")
    put_snapshot(tmp_path / "hub", NEW, 2.0)
    put_result(tmp_path / "out/b.json", 0.25, "pretrained=org/name")
    put_result(tmp_path / "out/c.json", 0.75, f"pretrained=org/name,revision={OLD}")
    lh.ingest([tmp_path / "hub", tmp_path / "out"], warehouse=tmp_path / "w")
    assert owners(tmp_path / "w") == {0.25: "org/name (unlinked)", 0.5: "org/name", 0.75: "org/name"}


def test_rows_of_two_revisions_in_one_table_go_to_two_snapshots(tmp_path):
    put_snapshot(tmp_path / "hub", OLD, 1.0)
    put_snapshot(tmp_path / "hub", NEW, 2.0)
    header = "model,task,metric,value,revision\n"
    (tmp_path / "all.csv").write_text(f"{header}org/name,piqa,acc,0.25,{OLD}\norg/name,piqa,acc,0.5,{NEW}\n")
    lh.ingest([tmp_path / "hub", tmp_path / "all.csv"], warehouse=tmp_path / "w")
    assert owners(tmp_path / "w") == {0.25: "org/name@a1b2c3d4", 0.5: "org/name@0f0e0d0c"}


def test_commits_that_begin_alike_are_named_in_full(tmp_path):
    commits = ("abcdef12" + "0" * 32, "abcdef12" + "1" * 32)
    for index, commit in enumerate(commits):
        put_snapshot(tmp_path / "hub", commit, float(index))
    lh.ingest(tmp_path / "hub", warehouse=tmp_path / "w")
    assert sorted(names_in(tmp_path / "w")) == [f"org/name@{commit}" for commit in commits]


def test_a_name_declares_the_same_with_a_commit_behind_it():
    pattern = compile_method_pattern(r"_(?P<ratio>\d{4})")
    for name in ("org/Llama-3-8B_0.2", "org/Magnitude_2000", "org/Llama-3-8B_x", "org/Wanda_0.5/checkpoint-10"):
        repository, _, below = name.partition("/checkpoint")
        with_commit = f"{repository}@12345678{'/checkpoint' * bool(below)}{below}"
        assert declare(with_commit) == declare(name)
        assert declare_by_patterns([pattern], with_commit) == declare_by_patterns([pattern], name)
    assert declare("org/Llama-3-8B_0.2@12345678").ratio == 0.2
    assert declare_by_patterns([compile_method_pattern(r"(?P<ratio>\d{4})")], "org/a@12345678") is None
