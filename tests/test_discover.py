"""What is a model, what it is called, what belongs to it, and what is said of everything else."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from layerhouse.errors import UsageError
from layerhouse.ingest.checkpoint.json_files import MAX_BYTES
from layerhouse.ingest.discover import discover
from layerhouse.ingest.study.file_names import ANALYSIS_NAMES
from layerhouse.tests.study_files import put, result, structure

NOTHING = "no weights, no analysis, no results"
EMPTY = f"empty folder: {NOTHING}"
NO_RESULT = "not a result of a known form, nor an analysis by its name; a table with model, task, metric and value is one"
LOST = "a link that leads nowhere"
ANALYSIS = "analysis/pruned_model_analysis.json"
RESULT = "evaluation/evaluation_results.json"
OTHER_JSON = {"a": 1}


def plant(folder: Path, *names: str) -> Path:
    """Files with contents that fit their names; a name that ends in / is an empty folder."""
    for name in names:
        file = Path(name).name
        if name.endswith("/"):
            (folder / name).mkdir(parents=True)
        elif file in ANALYSIS_NAMES:
            put(folder / name, structure())
        elif file.startswith(("evaluation_results", "ppl")):
            put(folder / name, result())
        else:
            put(folder / name, OTHER_JSON if file.endswith(".json") else "text")
    return folder


def found(*roots: Path | str, **options):
    """Every model with its files, and what was said: failures with a leading `!`, paths below the parents of the roots."""
    discovery = discover([Path(root) for root in roots], **options)

    def short(where):
        parents = [f"{Path(root).parent}/" for root in roots if where.startswith(f"{Path(root).parent}/")]
        return where.removeprefix(max(parents, key=len, default=""))

    models = {
        model.model_id: sorted(
            path.relative_to(model.folder).as_posix() if path != model.folder else "."
            for path in (*model.analysis_files, *model.result_files, *model.weight_files)
        )
        for model in discovery.models
    }
    assert len(models) == len(discovery.models)
    return models, [f"{'!' * remark.is_failure}{short(remark.where)}: {remark.what}" for remark in discovery.remarks]


# Names


def test_models_at_any_depth_are_named_by_their_path_from_the_roots_parent(tmp_path):
    plant(tmp_path / "results", f"A/{ANALYSIS}", f"llama/7b/B/{RESULT}", "llama/7b/C/model.safetensors")
    assert found(tmp_path / "results") == (
        {"results/A": [ANALYSIS], "results/llama/7b/B": [RESULT], "results/llama/7b/C": ["model.safetensors"]},
        [],
    )


@pytest.mark.parametrize(
    ("folder", "root", "name"),
    [
        (".", "results", "results/A"),
        (".", "results/", "results/A"),
        (".", "./results//", "results/A"),
        ("results", ".", "results/A"),
        ("results/A", "..", "results/A"),
        ("results/A", ".", "results/A"),
        (".", "results/A", "results/A"),
        (".", f"results/A/{RESULT}", "results/A"),
        (".", f"results/A/{ANALYSIS}", "results/A"),
        (".", "results/A/evaluation", "results/A"),
        (".", "results/A/analysis/", "results/A"),
        ("results/A/analysis", ".", "results/A"),
        (".", ".", "study/results/A"),
    ],
)
def test_a_model_has_one_name_however_a_root_leads_to_it(tmp_path, monkeypatch, folder, root, name):
    study = plant(tmp_path / "study", f"results/A/{ANALYSIS}", f"results/A/{RESULT}")
    monkeypatch.chdir(study / folder)
    assert [*found(root)[0]] == [name]


def test_a_weight_file_is_named_by_its_folder_and_itself(tmp_path):
    plant(tmp_path, "out/Llama-3-8B_0.2.pt")
    assert found(tmp_path / "out/Llama-3-8B_0.2.pt") == ({"out/Llama-3-8B_0.2": ["."]}, [])


def test_checkpoints_are_models_of_their_own_and_pruned_model_belongs_to_its_parent(tmp_path):
    plant(tmp_path / "results/A", ANALYSIS, "pruned_model/model.safetensors", "pruned_model/ppl_128.json")
    plant(tmp_path / "results/A", "checkpoint-100/model.bin", f"pruned_model/checkpoint-200/{RESULT}")
    models = {
        "results/A": [ANALYSIS, "pruned_model/model.safetensors", "pruned_model/ppl_128.json"],
        "results/A/checkpoint-100": ["model.bin"],
        "results/A/pruned_model/checkpoint-200": [RESULT],
    }
    assert found(tmp_path / "results") == (models, [])
    assert found(tmp_path / "results/A") == (models, [])


@pytest.mark.parametrize("root", ["hub", "hub/models--org--name", "hub/models--org--name/snapshots/abc"])
def test_a_hub_cache_folder_is_named_by_its_repository_with_the_revision(tmp_path, root):
    plant(tmp_path / "hub/models--org--name/snapshots/abc", RESULT, f"checkpoint-1/{RESULT}")
    models = discover([tmp_path / root]).models
    assert [(model.model_id, model.revision) for model in models] == [
        ("org/name", "abc"),
        ("org/name/checkpoint-1", "abc"),
    ]


def test_two_revisions_of_a_repository_are_two_models(tmp_path):
    plant(tmp_path / "models--gpt2/snapshots", f"a/{RESULT}", f"b/checkpoint-1/{RESULT}", "c/config.json", "d/x.safetensors")
    models = discover([tmp_path], excludes=["d"]).models
    assert [(model.model_id, model.revision) for model in models] == [("gpt2@a", "a"), ("gpt2@b/checkpoint-1", "b")]
    plant(tmp_path / "models--gpt2/snapshots", "e/model.safetensors")
    assert [*found(tmp_path / "models--gpt2/snapshots/d/x.safetensors")[0]] == ["gpt2@d/x"]


def test_two_folders_of_one_name_clash_and_the_first_is_taken(tmp_path):
    plant(tmp_path, f"x/results/A/{RESULT}", f"y/results/A/{ANALYSIS}", f"y/results/B/{RESULT}")
    models, said = found(tmp_path / "x/results", tmp_path / "y/results")
    assert models == {"results/A": [RESULT], "results/B": [RESULT]}
    assert said == [
        f"!results/A: its name 'results/A' is that of {tmp_path}/x/results/A; take one of them alone, with --name NAME"
    ]


def test_a_name_that_is_no_utf8_is_shown_with_escapes(tmp_path):
    folder = Path(os.fsdecode(os.fsencode(tmp_path / "results") + b"/caf\xe9"))
    put(plant(folder, ANALYSIS) / "evaluation/ppl.json", "{")
    models, said = found(tmp_path / "results")
    assert [*models] == ["results/caf\\xe9"]
    assert [line.partition(": ")[0] for line in said] == ["!results/caf\\xe9/evaluation/ppl.json"]


def test_name_is_for_exactly_one_model(tmp_path):
    plant(tmp_path / "results", f"A/{RESULT}", f"B/{RESULT}")
    assert found(tmp_path / "results/A", name="mine/A") == ({"mine/A": [RESULT]}, [])
    with pytest.raises(UsageError) as caught:
        discover([tmp_path / "results"], name="x")
    assert str(caught.value) == "--name names one model; found 2: results/A, results/B"
    with pytest.raises(UsageError, match="--name is empty"):
        discover([tmp_path / "results/A"], name=" ")


def test_name_without_a_model_leaves_the_reason_to_speak(tmp_path):
    assert found(tmp_path / "gone", name="x") == ({}, ["!gone: no such file or folder"])


def test_name_counts_models_of_one_name_as_two(tmp_path):
    plant(tmp_path, f"x/results/A/{RESULT}", f"y/results/A/{RESULT}")
    with pytest.raises(UsageError, match="found 2: results/A, results/A"):
        discover([tmp_path / "x/results", tmp_path / "y/results"], name="x")


# What belongs to a model


def test_results_lie_in_evaluation_at_any_depth_or_straight_in_the_folder(tmp_path):
    files = [RESULT, "evaluation/runs/1/ppl_2048_512.json", "ppl_128.json"]
    plant(tmp_path / "A", *files, ANALYSIS)
    assert found(tmp_path / "A") == ({f"{tmp_path.name}/A": [ANALYSIS, *files]}, [])


def test_analysis_files_are_known_by_name_in_analysis_or_straight_in_the_folder(tmp_path):
    plant(tmp_path / "results", *(f"A/{name}" for name in ANALYSIS_NAMES), *(f"B/analysis/{name}" for name in ANALYSIS_NAMES))
    models, said = found(tmp_path / "results")
    assert models == {
        "results/A": sorted(ANALYSIS_NAMES),
        "results/B": sorted(f"analysis/{name}" for name in ANALYSIS_NAMES),
    }
    assert said == []


def test_of_two_analysis_files_of_one_name_that_in_analysis_is_taken(tmp_path):
    plant(tmp_path / "results/A", ANALYSIS, "pruned_model_analysis.json")
    assert found(tmp_path / "results") == (
        {"results/A": [ANALYSIS]},
        [f"results/A/pruned_model_analysis.json: {ANALYSIS} is taken"],
    )


def test_a_removal_list_alone_is_no_analysis(tmp_path):
    plant(tmp_path / "results", f"A/{RESULT}", "A/analysis/layers_to_remove.json", "B/analysis/layers_to_remove.json")
    said = "analysis/layers_to_remove.json: alone it says nothing of the model's own layers"
    assert found(tmp_path / "results") == (
        {"results/A": [RESULT]},
        [f"results/A/{said}", f"results/B/{said}", f"results/B: {NOTHING}"],
    )


def test_json_beside_weights_is_not_mistaken_for_results(tmp_path):
    sidecars = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "vocab.json"]
    sidecars += ["model.safetensors.index.json", "special_tokens_map.json", "adapter_config.json", "trainer_state.json"]
    plant(tmp_path / "results/A", "model-00001-of-00002.safetensors", *sidecars, "README.md")
    assert found(tmp_path / "results") == ({"results/A": ["model-00001-of-00002.safetensors"]}, [])


def test_files_of_training_are_no_weights(tmp_path):
    plant(tmp_path / "results/A", RESULT, "training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state_0.pth")
    assert found(tmp_path / "results")[0] == {"results/A": [RESULT]}


def test_a_result_beside_weights_is_found_and_other_json_there_is_passed_over(tmp_path):
    plant(tmp_path / "results/A", "config.json", "model.safetensors", "ppl_2048.json", "notes.json")
    assert found(tmp_path / "results") == (
        {"results/A": ["model.safetensors", "ppl_2048.json"]},
        [f"results/A/notes.json: {NO_RESULT}"],
    )


def test_json_of_an_unknown_name_in_analysis_is_passed_over(tmp_path):
    plant(tmp_path / "results/A", ANALYSIS, "analysis/importance.json")
    assert found(tmp_path / "results") == ({"results/A": [ANALYSIS]}, [f"results/A/analysis/importance.json: {NO_RESULT}"])


def test_records_of_single_samples_are_skipped_without_a_word(tmp_path):
    plant(tmp_path / "results/A/evaluation", "evaluation_results.json", "samples_boolq.jsonl", "samples_piqa.json")
    assert found(tmp_path / "results") == ({"results/A": [RESULT]}, [])


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["evaluation/foo.json", RESULT], "!results/A/evaluation/foo.json"),
        (["evaluation/deep/foo.json", ANALYSIS], "!results/A/evaluation/deep/foo.json"),
        (["foo.json"], "!results/A/foo.json"),
        (["foo.json", ANALYSIS], "!results/A/foo.json"),
        (["foo.json", ANALYSIS, "logs/"], "results/A/foo.json"),
    ],
)
def test_a_file_that_stands_for_a_result_and_is_none_is_a_failure(tmp_path, files, said):
    plant(tmp_path / "results", f"ok/{RESULT}", *(f"A/{name}" for name in files))
    assert found(tmp_path / "results")[1] == [f"{said}: {NO_RESULT}"]


@pytest.mark.parametrize("name", [RESULT, "ppl.json", "model.safetensors.json"])
def test_json_cut_in_half_is_a_failure_and_the_others_are_found(tmp_path, name):
    plant(tmp_path / "results", f"A/{ANALYSIS}", f"B/{RESULT}")
    put(tmp_path / "results/A" / name, '{"metrics": {"ppl": {"wiki')
    assert found(tmp_path / "results") == (
        {"results/A": [ANALYSIS], "results/B": [RESULT]},
        [f"!results/A/{name}: cut off: Unterminated string at line 1, column 22"],
    )


@pytest.mark.parametrize(
    ("size", "head", "what"),
    [
        (MAX_BYTES + 1, b"", f"limit exceeded: bytes of a JSON file, over {MAX_BYTES}; --limit-factor raises it"),
        (0, b"[" * 200_000, "limit exceeded: nesting is too deep"),
        (0, b"", "empty file, 0 bytes"),
    ],
)
def test_json_over_a_limit_is_a_failure(tmp_path, size, head, what):
    path = plant(tmp_path / "results/A", RESULT) / RESULT
    path.write_bytes(head)
    if size:
        os.truncate(path, size)
    assert found(tmp_path / "results") == ({}, [f"!results/A/{RESULT}: {what}"])


# Roots


def test_a_missing_path_is_a_failure(tmp_path):
    assert found(tmp_path / "no/such") == ({}, ["!such: no such file or folder"])


def test_a_root_that_is_neither_file_nor_folder_is_a_failure(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("gone")
    assert found(tmp_path / "pipe", tmp_path / "link") == (
        {},
        ["!pipe: neither a file nor a folder: it is a named pipe", "!link: no such file or folder"],
    )


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["results/"], EMPTY),
        (["results/a/b/c/"], EMPTY),
        (["results/notes.txt"], NOTHING),
        (["results/A/run.log", "results/B/"], NOTHING),
    ],
)
def test_a_root_with_nothing_in_it_is_one_failure(tmp_path, files, said):
    plant(tmp_path, *files)
    assert found(tmp_path / "results") == ({}, [f"!results: {said}"])


def test_folders_with_nothing_beside_models_have_a_line_each_and_empty_ones_fail(tmp_path):
    plant(tmp_path / "results", f"A/{RESULT}", "A/logs/run.log", "B/deep/notes.txt", "C/", "D/deep/deeper/")
    assert found(tmp_path / "results") == (
        {"results/A": [RESULT]},
        [f"results/B: {NOTHING}", f"!results/C: {EMPTY}", f"!results/D: {EMPTY}"],
    )


def test_an_empty_folder_beside_a_broken_file_has_its_own_line(tmp_path):
    plant(tmp_path / "results", "A/foo.json", "B/")
    assert found(tmp_path / "results") == ({}, [f"!results/A/foo.json: {NO_RESULT}", f"!results/B: {EMPTY}"])


def test_the_same_model_from_several_roots_is_one(tmp_path):
    results = plant(tmp_path / "results", f"A/{RESULT}", f"A/{ANALYSIS}", f"B/{RESULT}")
    both = {"results/A": [ANALYSIS, RESULT], "results/B": [RESULT]}
    for roots in (
        [results, results],
        [results, results / "A"],
        [results / "A", results],
        [results, results / "A/analysis"],
        [results / "A/analysis", results],
        [results / "A/evaluation", results / "A/analysis", results / "B"],
        [results / "A", results / "B", results],
        [results / "A" / RESULT, results / "A" / ANALYSIS, results],
        [results, results / "A" / RESULT],
    ):
        assert found(*roots) == (both, []), roots


def test_a_part_of_a_model_as_a_root_is_that_part_alone(tmp_path):
    plant(tmp_path / "results/A", RESULT, ANALYSIS, "pruned_model/m.safetensors", f"checkpoint-1/{RESULT}")
    assert found(tmp_path / "results/A/evaluation") == ({"results/A": [RESULT]}, [])
    assert found(tmp_path / "results/A/analysis") == ({"results/A": [ANALYSIS]}, [])
    assert found(tmp_path / "results/A/pruned_model") == ({"results/A": ["pruned_model/m.safetensors"]}, [])


def test_a_folder_of_models_may_be_called_analysis(tmp_path):
    plant(tmp_path, f"analysis/A/{ANALYSIS}", f"B/{RESULT}")
    assert found(tmp_path / "analysis") == ({"analysis/A": [ANALYSIS]}, [])


def test_a_file_as_a_root_is_taken_alone(tmp_path):
    plant(tmp_path / "results/A", RESULT, ANALYSIS, "ppl_128.json")
    assert found(tmp_path / "results/A/ppl_128.json") == ({"results/A": ["ppl_128.json"]}, [])


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("config.json", NO_RESULT),
        ("samples_boolq.json", NO_RESULT),
        ("notes.txt", NO_RESULT),
    ],
)
def test_a_file_as_a_root_that_is_no_result_is_a_failure(tmp_path, name, what):
    plant(tmp_path / "results/A", name)
    assert found(tmp_path / "results/A" / name) == ({}, [f"!{name}: {what}"])


# Links


def test_a_link_to_a_sibling_is_passed_over(tmp_path):
    plant(tmp_path / "results/B", RESULT)
    (tmp_path / "results/A").symlink_to("B")
    assert found(tmp_path / "results") == (
        {"results/B": [RESULT]},
        [f"results/A: the same folder as {tmp_path}/results/B"],
    )


def test_links_from_elsewhere_name_the_model_once(tmp_path):
    plant(tmp_path / "store/m", RESULT, ANALYSIS)
    (tmp_path / "results").mkdir()
    (tmp_path / "results/A").symlink_to(tmp_path / "store/m")
    (tmp_path / "results/B").symlink_to(tmp_path / "store/m")
    assert found(tmp_path / "results", tmp_path / "store") == (
        {"results/A": [ANALYSIS, RESULT]},
        [
            f"results/B: the same folder as {tmp_path}/results/A",
            f"store/m: the same folder as {tmp_path}/results/A",
        ],
    )


def test_files_of_a_linked_model_are_known_by_their_real_path(tmp_path):
    plant(tmp_path / "store/m", RESULT)
    (tmp_path / "A").symlink_to("store/m")
    for root in (tmp_path / "A", tmp_path / "A" / RESULT):
        (model,) = discover([root]).models
        assert model.model_id == f"{tmp_path.name}/A"
        assert model.result_files == (tmp_path / "store/m" / RESULT,)


def test_cycles_end(tmp_path):
    plant(tmp_path / "results", f"A/{RESULT}", "A/evaluation/deep/ppl_128.json")
    for link, target in [
        ("A/up", ".."),
        ("A/self", "."),
        ("A/evaluation/up", "../.."),
        ("A/evaluation/deep/up", ".."),
        ("root", "."),
    ]:
        (tmp_path / "results" / link).symlink_to(target)
    models, said = found(tmp_path / "results")
    assert models == {"results/A": ["evaluation/deep/ppl_128.json", RESULT]}
    assert [line.partition(":")[0] for line in said] == [
        "results/A/evaluation/deep/up",
        "results/A/evaluation/up",
        "results/A/self",
        "results/A/up",
        "results/root",
    ]
    assert not any(line.startswith("!") for line in said)


def test_links_that_lead_nowhere_are_failures(tmp_path):
    plant(tmp_path / "results", f"A/{RESULT}", "C/")
    links = {"A/evaluation/new.json": "gone.json", "B": "gone", "C/D": "gone", "loop": "loop"}
    for link, target in links.items():
        (tmp_path / "results" / link).symlink_to(target)
    models, said = found(tmp_path / "results")
    assert models == {"results/A": [RESULT]}
    assert sorted(said) == [f"!results/{link}: {LOST}" for link in links]


def test_linked_folders_below_evaluation_are_read_if_they_stay_inside_of_the_model(tmp_path):
    plant(tmp_path, "runs/7/ppl_128.json", f"results/A/{RESULT}", "results/A/runs/8/ppl_256.json")
    (tmp_path / "results/A/evaluation/in").symlink_to("../runs/8")
    (tmp_path / "results/A/evaluation/out").symlink_to(tmp_path / "runs/7")
    assert found(tmp_path / "results") == (
        {"results/A": [RESULT, "evaluation/in/ppl_256.json"]},
        [
            f"!results/A/evaluation/out: a link that leads out of the model's folder, to {tmp_path}/runs/7: put the file there",
            f"results/A/runs/8: the same folder as {tmp_path}/results/A/evaluation/in",
        ],
    )


@pytest.mark.parametrize(("part", "mark"), [("analysis", "!"), ("pruned_model", "!"), ("evaluation", "!"), ("other", "")])
def test_a_linked_part_of_a_model_that_lies_elsewhere_is_not_looked_at(tmp_path, part, mark):
    plant(tmp_path, f"elsewhere/{part}/pruned_model_analysis.json", f"elsewhere/{part}/model.safetensors")
    plant(tmp_path / "results/A", "model.safetensors")
    (tmp_path / "results/A" / part).symlink_to(tmp_path / "elsewhere" / part)
    assert found(tmp_path / "results") == (
        {"results/A": ["model.safetensors"]},
        [
            f"{mark}results/A/{part}: a link that leads out of the model's folder, "
            f"to {tmp_path}/elsewhere/{part}: put the file there"
        ],
    )


@pytest.mark.parametrize("name", ["evaluation/stolen.json", "stolen.json", "analysis/pruned_model_analysis.json"])
def test_a_linked_file_outside_of_the_model_is_a_failure_and_not_read(tmp_path, name):
    plant(tmp_path, "secret.json", f"results/A/{RESULT}")
    link = tmp_path / "results/A" / name
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(tmp_path / "secret.json")
    models, said = found(tmp_path / "results")
    assert models == {"results/A": [RESULT]}
    where = tmp_path / "secret.json"
    assert said == [f"!results/A/{name}: a link that leads out of the model's folder, to {where}: put the file there"]


# What is not looked at


def test_hidden_folders_are_not_looked_at_unless_named(tmp_path):
    plant(tmp_path / "results", f"A/{RESULT}", f".cache/B/{RESULT}", "A/evaluation/.ppl.json", "A/__pycache__/m.bin")
    assert found(tmp_path / "results") == ({"results/A": [RESULT]}, [])
    assert found(tmp_path / "results/.cache")[0] == {".cache/B": [RESULT]}


def test_a_warehouse_inside_a_root_is_passed_over_and_as_a_root_refused(tmp_path):
    plant(tmp_path / "study", f"A/{RESULT}", "layerhouse-data/layerhouse.json", "layerhouse-data/commits/1.json")
    assert found(tmp_path / "study") == ({"study/A": [RESULT]}, ["study/layerhouse-data: a layerhouse warehouse"])
    assert found(tmp_path / "study/layerhouse-data") == (
        {},
        ["!layerhouse-data: a layerhouse warehouse; name folders of models"],
    )


def test_a_root_with_a_warehouse_alone_has_nothing(tmp_path):
    plant(tmp_path / "study", "layerhouse-data/layerhouse.json")
    assert found(tmp_path / "study") == (
        {},
        ["study/layerhouse-data: a layerhouse warehouse", f"!study: {NOTHING}"],
    )


@pytest.mark.parametrize(
    ("glob", "left"),
    [
        ("B", ["results/A", "results/A/checkpoint-1", "results/old/C"]),
        ("results/B", ["results/A", "results/A/checkpoint-1", "results/old/C"]),
        ("./results/B/", ["results/A", "results/A/checkpoint-1", "results/old/C"]),
        ("checkpoint-*", ["results/A", "results/B", "results/old/C"]),
        ("results/A/checkpoint-*", ["results/A", "results/B", "results/old/C"]),
        ("old", ["results/A", "results/A/checkpoint-1", "results/B"]),
        ("*.json", []),
        ("evaluation_results.json", []),
        ("evaluation", []),
        ("b", ["results/A", "results/A/checkpoint-1", "results/B", "results/old/C"]),
        ("results", ["results/A", "results/A/checkpoint-1", "results/B", "results/old/C"]),
    ],
)
def test_exclude_is_a_glob_on_a_name_or_the_end_of_a_path(tmp_path, glob, left):
    plant(tmp_path / "results", *(f"{name}/{RESULT}" for name in ("A", "A/checkpoint-1", "B", "old/C")))
    assert [*found(tmp_path / "results", excludes=[glob])[0]] == left


def test_excluded_things_are_not_failures(tmp_path):
    plant(tmp_path / "results", f"A/{RESULT}", "B/", "A/evaluation/foo.json")
    assert found(tmp_path / "results", excludes=["B", "foo.json"]) == ({"results/A": [RESULT]}, [])


def test_exclude_takes_no_empty_glob(tmp_path):
    with pytest.raises(UsageError, match="--exclude '': an empty glob"):
        discover([tmp_path], excludes=[""])


def test_a_root_of_which_everything_is_excluded_has_nothing(tmp_path):
    plant(tmp_path / "results", f"A/{RESULT}")
    assert found(tmp_path / "results", excludes=["A"]) == ({}, [f"!results: {NOTHING}"])


# Limits


def test_folders_may_be_nested_64_deep(tmp_path):
    plant(tmp_path / "results", f"{'d/' * 63}A/ppl.json", f"e/{'d/' * 63}A/ppl.json")
    models, said = found(tmp_path / "results")
    assert [*models] == [f"results/{'d/' * 63}A"]
    assert said == [f"!results/e/{'d/' * 63}A: limit exceeded: nested deeper than 64 folders"]


def test_thousands_of_folders_and_files_are_walked(tmp_path):
    for number in range(2000):
        path = tmp_path / f"results/{number:04}/pruned_model_analysis.json"
        path.parent.mkdir(parents=True)
        path.touch()
    models, said = found(tmp_path / "results")
    assert [*models] == [f"results/{number:04}" for number in range(2000)]
    assert said == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_a_failure(tmp_path):
    plant(tmp_path / "results", f"A/{RESULT}", f"B/{RESULT}", f"C/{RESULT}")
    (tmp_path / "results/B").chmod(0)
    (tmp_path / "results/C").chmod(0o444)
    try:
        models, said = found(tmp_path / "results")
    finally:
        (tmp_path / "results/B").chmod(0o755)
        (tmp_path / "results/C").chmod(0o755)
    assert models == {"results/A": [RESULT]}
    assert said == [
        "!results/B: cannot be listed: Permission denied",
        "!results/C/evaluation: cannot be listed: Permission denied",
    ]


@pytest.mark.parametrize("depth", [1, 50])
def test_a_hundred_thousand_empty_folders_take_linear_time_and_each_that_counts_has_a_line(tmp_path, depth):
    """Twenty thousand here, beside a model; below each empty one more are looked at once, not once a level."""
    count = 20_000 // depth
    plant(tmp_path / "results", f"A/{RESULT}")
    for number in range(count):
        (tmp_path / "results" / f"e{number:05}" / "/".join("d" * (depth - 1))).mkdir(parents=True)
    before = resource.getrusage(resource.RUSAGE_SELF)
    models, said = found(tmp_path / "results")
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert [*models] == ["results/A"]
    assert said == [f"!results/e{number:05}: {EMPTY}" for number in range(count)]
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 10


def test_an_empty_folder_in_a_hidden_one_or_beside_an_excluded_file_is_not_said_to_be_empty(tmp_path):
    plant(tmp_path / "results", f"A/{RESULT}", "B/.git/config", "C/.cache/", "D/old.json")
    assert found(tmp_path / "results", excludes=["old.json"])[1] == [
        f"results/B: {NOTHING}",
        f"!results/C: {EMPTY}",
        f"results/D: {NOTHING}",
    ]
