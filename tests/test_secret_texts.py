"""Passwords and tokens in result files reach no table and no line, whatever the format."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import layerhouse as lh
from layerhouse.ingest.results import documents
from layerhouse.ingest.results.secret_texts import clean_document, without_secrets
from layerhouse.tests.mutation_results import BESIDE, JSON_RESULTS, TEXT_RESULTS
from layerhouse.tests.study_files import put
from layerhouse.warehouse.storage.schema import TABLES

SECRET = "s3cr3tV4lue"
URL = f"https://user:{SECRET}@host/org/m?a=1&access_token={SECRET}"
TOKEN = "hf_" + "aB3" * 12


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("https://user:pw@host/org/m?token=abc&a=1", "https://host/org/m?a=1"),
        ("https://tok@host/org/m?a=1&X-Amz-Signature=abc#f", "https://host/org/m?a=1#f"),
        ("pretrained=https://u:p@ss@h/m,hf_token=abc,dtype=float16", "pretrained=https://h/m,hf_token=***,dtype=float16"),
        (r"https:\/\/u:p@h/m", r"https:\/\/h/m"),
        ("Authorization: Bearer abcdef", "Authorization: ***"),
        ("{'api_key': 'abc', 'n': 1}", "{'api_key': '***', 'n': 1}"),
        ("MY_SECRET_KEY=a1 x", "MY_SECRET_KEY=*** x"),
        ("first\npassword = abc\nlast", "first\npassword = ***\nlast"),
        (f"m-{TOKEN}", "m-***"),
    ],
)
def test_what_is_secret_in_a_text(text, clean):
    assert without_secrets(text) == clean
    assert without_secrets(clean) == clean


@pytest.mark.parametrize(
    "text",
    [
        "token: 0.5",
        "time per token = 5.2 ms",
        "max_tokens=12, pad_token=<pad>, eos_token: </s>",
        "humaneval pass@1: 0.5 (https://host/x)",
        "org/hf_mistral7binstructv2",
        "org/sk-learn-something-long-name",
        "use_auth_token=True,trust_remote_code=True",
        "ppl on wikitext: 7.26?",
        "design: nice, author=me, monkey: x",
        "models--org--name@0f0e0d0c",
        "",
    ],
)
def test_what_is_none_stays_as_it_is(text):
    assert without_secrets(text) == text


@settings(max_examples=50)
@given(st.recursive(st.text("://@?&=token") | st.floats(allow_nan=False) | st.booleans() | st.none(), st.lists))
def test_numbers_and_the_shape_of_a_document_stay(document):
    def shape(value: Any) -> Any:
        return [shape(inner) for inner in value] if isinstance(value, list) else "" if isinstance(value, str) else value

    before = shape(document)
    assert shape(clean_document(document)) == before


def test_keys_and_values_of_objects():
    document = {"api_key": SECRET, URL: {"n": 1, "headers": [{"Authorization": f"Basic {SECRET}"}]}, "token": 3}
    assert clean_document(document) == {
        "api_key": "***",
        "https://host/org/m?a=1": {"n": 1, "headers": [{"Authorization": "***"}]},
        "token": 3,
    }


def planted(document: Any) -> Iterator[Any]:
    """The document with a secret in place of each text in it, one at a time."""

    def places(value: Any) -> Iterator[tuple[Any, Any]]:
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(inner, str):
                yield value, key
            elif isinstance(inner, dict | list):
                yield from places(inner)

    for number in range(sum(1 for _ in places(document))):
        changed = copy.deepcopy(document)
        holder, key = [*places(changed)][number]
        holder[key] = f"pretrained={URL},hf_token={SECRET}" if key == "model_args" else URL
        yield changed


def test_no_format_lets_a_secret_through(tmp_path):
    folders = (tmp_path / "out" / str(number) for number in range(10_000))
    for name, document in JSON_RESULTS.items():
        for changed in planted(document):
            put(next(folders) / name, changed)
    for name, (other, document) in BESIDE.items():
        for changed in planted(document):
            folder = next(folders)
            put(folder / name, JSON_RESULTS[name])
            put(folder / other, changed)
    for name, text in TEXT_RESULTS.items():
        for line in ("model: ", "model path = ", "", "model,"):
            put(next(folders) / name, f"{text}{line}{URL} password={SECRET}\n")
        put(next(folders) / name, text.replace("\na", f"\n{URL}").replace("model-a", URL))
    report = lh.ingest(tmp_path / "out", warehouse=tmp_path / "w")
    assert report.count("taken") > 100
    assert SECRET not in repr(report.events)
    with lh.open(tmp_path / "w") as wh:
        declared = wh.sql("SELECT count(*) FROM results WHERE declared_model LIKE 'https://host/org/m?a=1%'").item()
        assert declared > 20
        assert all(SECRET not in repr(wh.sql(f"SELECT * FROM {table}").rows()) for table in TABLES)
    assert all(SECRET.encode() not in path.read_bytes() for path in (tmp_path / "w").rglob("*") if path.is_file())


@pytest.mark.parametrize("text", ["model,note\n{url},piqa\n", "accuracy of {url}: 0.5\n", '{{"{url}": '])
def test_a_file_that_is_no_result_says_no_secret(tmp_path, text):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ("a.json" if text.startswith("{") else "a.csv")).write_text(text.format(url=URL))
    report = lh.ingest(tmp_path / "out", warehouse=tmp_path / "w")
    assert report.count("failed") == 1
    assert SECRET not in repr(report.events)


def test_the_names_that_a_file_declares_stay_apart_by_what_is_no_secret(tmp_path):
    for name in ("a", "b"):
        document = {
            "results": {"piqa": {"acc,none": 0.5}},
            "versions": {},
            "config": {"model_args": f"pretrained={URL}/{name}"},
        }
        put(tmp_path / f"out/{name}.json", document | {"config": {"model_args": f"pretrained=https://u:{SECRET}@h/{name}"}})
    lh.ingest(tmp_path / "out", warehouse=tmp_path / "w")
    assert sorted(lh.open(tmp_path / "w").models()["model_id"].to_list()) == ["https://h/a", "https://h/b"]


def test_formats_read_files_through_documents_alone():
    readers = re.compile(r"\b(read_json|read_json_bytes|open_regular\w*|read_regular|read_text|read_bytes|open)\(")
    folder = Path(documents.__file__).parent
    readings = {path.stem for path in folder.glob("*.py") if readers.search(path.read_text("utf-8"))}
    assert readings == {"documents"}
