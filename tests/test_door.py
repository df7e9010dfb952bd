"""Only regular files are opened, no link leads out of a model's folder, and each thing that is not read is named."""

from __future__ import annotations

import json
import os
import re
import socket

import pytest
import torch
from safetensors.torch import save, save_file

import layerhouse as lh
from layerhouse.errors import ChangedError, InputError, UsageError
from layerhouse.file_door import NotRegularError, kind_text, open_regular
from layerhouse.ingest.checkpoint.json_files import read_json
from layerhouse.ingest.checkpoint.regular_file import confined_to, open_regular_file
from layerhouse.ingest.measure.io.files import open_file
from layerhouse.tests.running import layerhouse
from layerhouse.tests.study_files import ANALYSIS, RESULT, put, result, structure
from layerhouse.warehouse.admin.link_results import read_requests
from layerhouse.warehouse.study.written_files import RECORD, write_files

LEADS_OUT = "a link that leads out of the model's folder"


def put_model(folder):
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"model.layers.0.mlp.up_proj.weight": torch.ones(4, 4)}, folder / "model.safetensors")


def make_pipe(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)


def make_socket(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    here = os.open(".", os.O_RDONLY)
    try:
        os.chdir(path.parent)  # the path of a socket is short
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.fchdir(here)
        os.close(here)


def make_device(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to("/dev/zero")


SPECIALS = {"a named pipe": make_pipe, "a socket": make_socket, "a device": make_device}


@pytest.mark.parametrize("kind", SPECIALS)
def test_the_door_refuses_what_is_no_file_before_it_is_opened(tmp_path, kind):
    path = tmp_path / "x.json"
    SPECIALS[kind](path)
    for open_path in (open_regular, open_file):
        with pytest.raises(NotRegularError, match=f"is {kind}, which is not a regular file"):
            open_path(path)
    with pytest.raises(InputError, match=rf"shown: is {kind}, which is not a regular file"):
        read_json(path, "shown")
    with pytest.raises(UsageError, match=f"is {kind}"):
        read_requests(path)


def test_the_door_opens_a_file_and_says_which(tmp_path):
    path = put(tmp_path / "x", b"abc")
    file, identity = open_regular(path)
    try:
        status = os.fstat(file)
        assert os.read(file, 9) == b"abc"
        assert not os.get_inheritable(file)
    finally:
        os.close(file)
    assert identity == (3, status.st_mtime_ns, status.st_ino, status.st_dev, status.st_ctime_ns)
    with pytest.raises(NotRegularError, match="is a folder"):
        open_regular(tmp_path)
    assert kind_text(0) == "something else than a file"


def test_a_link_out_is_not_followed_while_a_model_is_read(tmp_path):
    secret = put(tmp_path / "secret.json", {"a": 1})
    put(tmp_path / "m/own.json", {"b": 2})
    (tmp_path / "m/out.json").symlink_to(secret)
    (tmp_path / "m/in.json").symlink_to("own.json")
    (tmp_path / "m/up").symlink_to("..")
    (tmp_path / "m/loop.json").symlink_to("loop.json")
    with confined_to(tmp_path / "m"):
        assert read_json(tmp_path / "m/own.json", "x")[1] == read_json(tmp_path / "m/in.json", "x")[1] == {"b": 2}
        for name in ("out.json", "up/secret.json"):
            with pytest.raises(InputError, match=LEADS_OUT):
                read_json(tmp_path / "m" / name, "x")
        with pytest.raises(InputError, match="cannot be read"):
            read_json(tmp_path / "m/loop.json", "x")
    assert read_json(tmp_path / "m/out.json", "x")[1] == {"a": 1}


def test_a_link_that_is_turned_while_it_is_read_is_a_change(tmp_path):
    for name in ("a", "b"):
        put(tmp_path / name, b"abc")
    (tmp_path / "link").symlink_to("a")
    with pytest.raises(ChangedError), open_regular_file(tmp_path / "link", "shown"):
        (tmp_path / "link").unlink()
        (tmp_path / "link").symlink_to("b")


@pytest.mark.parametrize("kind", SPECIALS)
@pytest.mark.parametrize(
    ("name", "is_failure"),
    [
        ("model-00001-of-00001.safetensors", True),
        ("pytorch_model.bin", True),
        (ANALYSIS, True),
        ("config.json", False),
        ("tokenizer.json", False),
        ("description.txt", False),
        ("evaluation/ppl.json", True),
        ("notes", False),
    ],
)
def test_special_files_in_a_model_are_named_and_never_opened(tmp_path, kind, name, is_failure):
    put_model(tmp_path / "zoo/A")
    put(tmp_path / "zoo/A" / RESULT, result())
    SPECIALS[kind](tmp_path / "zoo/A" / name)
    report = lh.ingest(tmp_path / "zoo", warehouse=tmp_path / "w")
    events = [(event.kind, event.where, event.what) for event in report.events if event.kind in ("failed", "passed")]
    lines = [line for line in events if line[1] == f"{tmp_path}/zoo/A/{name}"]
    assert lines == [("failed" if is_failure else "passed", lines[0][1], f"is {kind}, not a file, and is not opened")]
    assert {line for line in events if line[0] == "failed"} <= set(lines)
    (taken,) = [event.what for event in report.events if event.kind == "taken"]
    assert re.fullmatch(r"weights \(1 file, .*, 1 tensor\), 1 result file", taken)


def test_an_index_that_is_a_pipe_is_a_failure_of_the_weights(tmp_path):
    put_model(tmp_path / "zoo/A")
    make_pipe(tmp_path / "zoo/A/model.safetensors.index.json")
    done = layerhouse("ingest", "zoo", cwd=tmp_path)
    assert done.returncode == 1
    assert "FAILED      zoo/A/model.safetensors.index.json: is a named pipe" in done.stderr


@pytest.mark.parametrize("kind", SPECIALS)
def test_the_record_of_written_files_is_read_through_the_door(tmp_path, kind):
    """Beside weights it tells which analyses layerhouse wrote itself."""
    put_model(tmp_path / "zoo/A")
    put(tmp_path / "zoo/A" / ANALYSIS, structure((400, 600)))
    SPECIALS[kind](tmp_path / "zoo/A/analysis" / RECORD)
    report = lh.ingest(tmp_path / "zoo", warehouse=tmp_path / "w")
    assert [event.kind for event in report.events] == ["taken"]


def test_files_are_not_written_through_a_link_that_somebody_left(tmp_path):
    secret = put(tmp_path / "secret", "mine")
    (tmp_path / "study").mkdir()
    for name in (".a.json.tmp", f".{RECORD}.tmp"):
        (tmp_path / "study" / name).symlink_to(secret)
    write_files(tmp_path / "study", {"a.json": "{}"})
    assert secret.read_text() == "mine"
    assert (tmp_path / "study/a.json").read_text() == "{}"
    make_pipe(tmp_path / "study/b.json")
    with pytest.raises(UsageError, match="layerhouse did not write"):
        write_files(tmp_path / "study", {"b.json": "{}"})


@pytest.mark.parametrize("kind", SPECIALS)
def test_a_special_file_as_a_root_is_named(tmp_path, kind):
    SPECIALS[kind](tmp_path / "x.json")
    done = layerhouse("ingest", "x.json", cwd=tmp_path)
    assert done.returncode == 1
    assert f"FAILED      x.json: neither a file nor a folder: it is {kind}" in done.stderr


def outside(tmp_path):
    """Files outside of any model that would be read if a link to them were followed."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "weights").write_bytes(save({"model.layers.0.mlp.up_proj.weight": torch.full((4, 4), 7.0)}))
    put(folder / "config", {"model_type": "secret", "architectures": ["Secret"]})
    put(folder / "result", result(77.0))
    put(folder / "analysis", structure((400, 600)))
    put(folder / "index", {"weight_map": {"model.layers.0.mlp.up_proj.weight": "model.safetensors"}})
    return folder


@pytest.mark.parametrize(
    ("name", "target", "kind"),
    [
        ("other.safetensors", "weights", "failed"),
        ("config.json", "config", "passed"),
        ("adapter_config.json", "config", "passed"),
        ("generation_config.json", "config", "passed"),
        (RESULT, "result", "failed"),
        ("scores.json", "result", "failed"),
        (ANALYSIS, "analysis", "failed"),
    ],
)
def test_a_link_out_of_the_folder_has_a_line_and_is_not_read(tmp_path, name, target, kind):
    folder = outside(tmp_path)
    put_model(tmp_path / "zoo/A")
    link = tmp_path / "zoo/A" / name
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(folder / target)
    report = lh.ingest(tmp_path / "zoo", warehouse=tmp_path / "w")
    lines = [(event.kind, event.where, event.what) for event in report.events if event.kind in ("failed", "passed")]
    assert lines == [(kind, str(link), f"{LEADS_OUT}, to {folder / target}: put the file there")]
    with lh.open(tmp_path / "w") as wh:
        ((declared, mean),) = wh.sql("SELECT declared, mean FROM checkpoints JOIN tensors USING (checkpoint_id)").rows()
        assert (declared is None or "ecret" not in declared) and mean == 1.0
        assert wh.sql("SELECT count(*) FROM results").rows() == [(0,)]


@pytest.mark.parametrize(("name", "target"), [("model.safetensors", "weights"), ("model.safetensors.index.json", "index")])
def test_weights_or_an_index_that_are_a_link_out_are_a_failure_of_the_model(tmp_path, name, target):
    folder = outside(tmp_path)
    put_model(tmp_path / "zoo/A")
    (tmp_path / "zoo/A" / name).unlink(missing_ok=True)
    (tmp_path / "zoo/A" / name).symlink_to(folder / target)
    report = lh.ingest(tmp_path / "zoo", warehouse=tmp_path / "w")
    (failed,) = [event for event in report.events if event.kind == "failed"]
    assert failed.where == f"{tmp_path}/zoo/A/{name}"
    assert LEADS_OUT in failed.what
    assert report.count("taken") == 0


def test_a_file_that_the_user_names_may_be_a_link(tmp_path):
    folder = outside(tmp_path)
    (folder / "result").rename(folder / "scores.json")
    (tmp_path / "latest.json").symlink_to(folder / "scores.json")
    report = lh.ingest(tmp_path / "latest.json", warehouse=tmp_path / "w")
    assert [event.kind for event in report.events] == ["taken"]


# A hub cache


@pytest.fixture
def hub(tmp_path):
    """A hub cache of two repositories as huggingface_hub makes it: blobs, refs, snapshots of links, marks of absent files."""
    for number, name in enumerate(("base", "pruned")):
        repository = tmp_path / f"hub/models--org--{name}"
        snapshot = repository / "snapshots/0a1b2c"
        put(repository / "refs/main", "0a1b2c")
        put(repository / ".no_exist/0a1b2c/adapter_config.json", "")
        put(tmp_path / f"hub/.locks/models--org--{name}/0123.lock", "")
        weights = {"model.layers.0.mlp.up_proj.weight": torch.ones(4, 4)}
        weights["model.layers.0.mlp.up_proj.weight"][:number] = 0
        put(repository / "blobs/0123", save(weights))
        put(repository / "blobs/4567", {"model_type": "llama", "num_hidden_layers": 1})
        put(repository / "blobs/89ab.incomplete", b"")
        snapshot.mkdir(parents=True)
        (snapshot / "model.safetensors").symlink_to("../../blobs/0123")
        (snapshot / "config.json").symlink_to("../../blobs/4567")
    put(tmp_path / "hub/version.txt", "1")
    return tmp_path / "hub"


@pytest.mark.parametrize("root", ["hub", "hub/models--org--pruned", "hub/models--org--pruned/snapshots"])
def test_a_hub_cache_has_lines_for_its_models_alone(hub, root):
    report = lh.ingest(hub.parent / root, warehouse=hub.parent / "w")
    names = ["org/base", "org/pruned"] if root == "hub" else ["org/pruned"]
    assert [(event.kind, event.where) for event in report.events] == [("taken", name) for name in names]
    with lh.open(hub.parent / "w") as wh:
        assert wh.sql("SELECT DISTINCT declared LIKE '%num_hidden_layers%' FROM checkpoints").rows() == [(True,)]


@pytest.mark.parametrize("base", ["org/base", "hub/models--org--base", "hub/models--org--base/snapshots/0a1b2c"])
def test_a_base_in_the_same_hub_cache_is_found_by_name_and_by_path(hub, base):
    done = layerhouse("ingest", "hub", "--base", base, cwd=hub.parent)
    lines = re.findall(r"^(taken|FAILED|passed over) +(\S+): (\w+)", done.stderr, re.MULTILINE)
    assert lines == [
        ("taken", "org/base", "weights"),
        ("taken", "org/pruned", "weights"),
        ("passed over", "org/pruned", "compared"),
    ]
    assert done.returncode == 0
    with lh.open(hub.parent / "layerhouse-data") as wh:
        matches = wh.sql("SELECT relation, changed FROM tensor_matches WHERE checkpoint_id <> base_checkpoint_id").rows()
        assert matches == [("masked", 4)]


@pytest.mark.parametrize("order", [["base", "A"], ["A", "base"]])
@pytest.mark.parametrize("base", ["zoo/base", "./zoo/base", "zoo/base/model.safetensors"])
def test_a_base_that_arrives_in_the_same_ingest_is_compared_in_any_order(tmp_path, monkeypatch, order, base):
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("base", "A")):
        weights = {"model.layers.0.mlp.up_proj.weight": torch.ones(4, 4)}
        weights["model.layers.0.mlp.up_proj.weight"][:number] = 0
        put(tmp_path / "zoo" / name / "model.safetensors", save(weights))
    if base == "zoo/base":
        monkeypatch.chdir(put(tmp_path / "elsewhere/x", "").parent)  # no such path here: it is the name of the model
    report = lh.ingest([tmp_path / "zoo" / name for name in order], warehouse=tmp_path / "w", base=base)
    assert report.count("failed") == 0
    with lh.open(tmp_path / "w") as wh:
        matches = wh.sql("SELECT relation, changed FROM tensor_matches WHERE checkpoint_id <> base_checkpoint_id").rows()
        assert matches == [("masked", 4)]


def test_a_base_that_is_not_there_lists_the_models_of_the_ingest_too(tmp_path):
    put_model(tmp_path / "zoo/A")
    with pytest.raises(lh.NotFoundError, match="'gone'; there is zoo/A"):
        lh.ingest(tmp_path / "zoo", warehouse=tmp_path / "w", base="gone")


# Paths in messages, URLs


@pytest.mark.parametrize(
    ("folder", "root", "shown"),
    [
        (".", "out/A/bad.json", "out/A/bad.json"),
        ("out/A", "bad.json", "bad.json"),
        ("out/A", "./bad.json", "bad.json"),
        ("out", "A/bad.json", "A/bad.json"),
        ("out/A", ".", "bad.json"),
        ("out/A", "..", "../A/bad.json"),
        ("out", ".", "A/bad.json"),
        ("other", "../out", "../out/A/bad.json"),
        ("other", "../out/A", "../out/A/bad.json"),
        ("other", "ABSOLUTE/out", "ABSOLUTE/out/A/bad.json"),
    ],
)
def test_a_path_in_a_message_can_be_opened_from_where_the_user_stands(tmp_path, folder, root, shown):
    put(tmp_path / "out/A/bad.json", "{")
    (tmp_path / "other").mkdir()
    root, shown = (text.replace("ABSOLUTE", str(tmp_path)) for text in (root, shown))
    done = layerhouse("ingest", root, "-w", tmp_path / "w", cwd=tmp_path / folder)
    failed = re.findall(r"^FAILED +(.*?): ", done.stderr, re.MULTILINE)
    assert failed == [shown]
    assert (tmp_path / folder / shown).read_text() == "{"


@pytest.mark.parametrize("name", ["A", "renamed"])
@pytest.mark.parametrize("file", ["model.safetensors", "pruned_model/model.bin", ANALYSIS, RESULT])
def test_files_of_a_model_have_paths_that_can_be_opened_whatever_its_name_is(tmp_path, name, file):
    put(tmp_path / "out/A" / file, b"{" * 100)
    named = [] if name == "A" else ["--name", name]
    done = layerhouse("ingest", "A", "-w", tmp_path / "w", *named, cwd=tmp_path / "out")
    assert re.findall(r"^FAILED +(.*?): ", done.stderr, re.MULTILINE) == [f"A/{file}"]


def test_models_that_are_links_to_folders_are_read_and_named_as_links(tmp_path):
    put_model(tmp_path / "store/m/pruned_model")
    put_model(tmp_path / "store/n")
    (tmp_path / "results").mkdir()
    for link, target in {"A": "m", "B": "n"}.items():
        (tmp_path / "results" / link).symlink_to(f"../store/{target}")
    done = layerhouse("ingest", "results", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for path in (tmp_path / "store").rglob("*.safetensors"):
        with path.open("ab") as file:
            file.write(b"more")
    done = layerhouse("ingest", "results", cwd=tmp_path)
    assert re.findall(r"^FAILED +(.*?): ", done.stderr, re.MULTILINE) == [
        "results/A/pruned_model/model.safetensors",
        "results/B/model.safetensors",
    ]


@pytest.mark.parametrize("name", ["x" * 5000, "a\nb", "\x1b[31m"])
def test_a_root_of_an_odd_name_is_one_line(tmp_path, name):
    done = layerhouse("ingest", name, cwd=tmp_path)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 2
    assert "\x1b" not in done.stderr


URLS = ["s3://bucket/x", "gs://b/x", "https://example.org/x", "hf://org/name", "ftp://host/x", "az://c/x"]


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize(
    "arguments",
    [
        ["ingest", "URL"],
        ["ingest", "zoo", "--base", "URL"],
        ["ingest", "zoo", "-w", "URL"],
        ["summarize", "-w", "URL"],
        ["check", "-w", "URL"],
        ["demo", "--keep", "URL"],
    ],
    ids=" ".join,
)
def test_a_url_is_refused_as_one_and_makes_no_folder(tmp_path, monkeypatch, url, arguments):
    from click.testing import CliRunner

    from layerhouse.cli import cli

    put_model(tmp_path / "zoo/A")
    monkeypatch.chdir(tmp_path)
    outcome = CliRunner().invoke(cli, [argument.replace("URL", url) for argument in arguments])
    assert isinstance(outcome.exception, UsageError)
    assert str(outcome.exception).startswith(f"{url}: a URL, and layerhouse reads and writes local folders and files; copy it")
    assert [path.name for path in tmp_path.iterdir()] == ["zoo"]


def test_urls_are_refused_in_python_and_in_the_environment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    calls = [
        lambda: lh.open("s3://b/w"),
        lambda: lh.ingest("s3://b/x"),
        lambda: lh.ingest([tmp_path, "s3://b/x"]),
        lambda: lh.ingest(tmp_path, warehouse="s3://b/w"),
        lambda: lh.ingest(tmp_path, base="s3://b/base"),
    ]
    for call in calls:
        with pytest.raises(UsageError, match=r"s3://b/\w+: a URL, .* aws s3 sync"):
            call()
    with pytest.raises(UsageError, match="one path or one name"):
        lh.ingest(tmp_path, base=["a", "b"])
    done = layerhouse("tables", cwd=tmp_path, LAYERHOUSE_WAREHOUSE="s3://b/w")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("prefix", ["file://", "file://localhost", "file:"])
def test_a_url_of_a_file_is_its_path(tmp_path, prefix):
    put_model(tmp_path / "a folder/A")
    root = f"{prefix}{tmp_path}/a%20folder"
    done = layerhouse("ingest", root, "-w", f"file://{tmp_path}/w", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with lh.open(f"file://{tmp_path}/w") as wh:
        assert wh.sql("SELECT model_id FROM models").rows() == [("a folder/A",)]
    with pytest.raises(UsageError, match="a file of the machine 'other'"):
        lh.open("file://other/w")


def test_a_folder_with_a_colon_is_a_folder(tmp_path):
    put_model(tmp_path / "run:1/A")
    done = layerhouse("ingest", "run:1", "./run:1/A", cwd=tmp_path)
    assert done.returncode == 0


def test_a_second_base_is_an_error(tmp_path):
    done = layerhouse("ingest", "zoo", "--base", "a", "--base", "b", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "layerhouse: --base is given 2 times: a, b; give one, and ingest once for each base\n"
    assert json.dumps(list(tmp_path.iterdir())) == "[]"
