"""read_json reads every valid document and refuses everything else with a reason of one line."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.json_files import read_json

MALFORMED = Path(__file__).parents[2] / "shared/data/harness/malformed"


def read(path: Path, content: bytes, **options: int):
    path.write_bytes(content)
    return read_json(path, "shown.json", **options)


def refusal(path: Path, content: bytes, **options: int) -> str:
    with pytest.raises(InputError) as caught:
        read(path, content, **options)
    assert caught.value.where == "shown.json"
    assert str(caught.value) == f"shown.json: {caught.value.what}"
    assert "\n" not in str(caught.value)
    return caught.value.what


@pytest.mark.parametrize(
    ("content", "document"),
    [
        (b'{"a": [1, 2.5, "x", null, true]}', {"a": [1, 2.5, "x", None, True]}),
        (b'\xef\xbb\xbf{"a": 1}', {"a": 1}),
        ('{"名": "é\\u00e9"}'.encode(), {"名": "éé"}),
        (b'"\\ud83d\\ude00"', "😀"),
        (b" [9007199254740993, -0.0, 1e400]\n", [9007199254740993, -0.0, math.inf]),
        (b"7", 7),
        (b'[{"a": 1}, {"a": 2}]', [{"a": 1}, {"a": 2}]),
    ],
)
def test_valid_documents_come_back_with_their_bytes(tmp_path, content, document):
    assert read(tmp_path / "a.json", content) == (content, document)


def test_bare_words_for_numbers_are_floats(tmp_path):
    _, document = read(tmp_path / "a.json", b"[NaN, Infinity, -Infinity]")
    assert math.isnan(document[0])
    assert document[1:] == [math.inf, -math.inf]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file, 0 bytes"),
        (b" \n\t", "empty file, only white space"),
        (b"\0" * 512, "not JSON: 512 bytes, all of them zero"),
        ('{"a": 1}'.encode("utf-16"), "not UTF-8: it looks like UTF-16; save it as UTF-8"),
        ('{"a": 1}'.encode("utf-16-le"), "not UTF-8: it looks like UTF-16; save it as UTF-8"),
        ('{"a": 1}'.encode("utf-32"), "not UTF-8: it looks like UTF-32; save it as UTF-8"),
        (b'{"a": "\xff"}', "not UTF-8: invalid start byte at byte 7"),
        ('{"a": "é'.encode()[:-1], "cut off: the file ends inside a character, at byte 7"),
        (b'{\n "a": 1,\n "a": 2}', "duplicate key 'a'"),
        (b'[{"x": {"k\\n": 1, "k\\n": 1}}]', "duplicate key 'k\\n'"),
        (b'{"a" : 1, "a": 2}', "duplicate key 'a'"),
        (b'{"a": 1, "a"\n:2}', "duplicate key 'a'"),
        (b'{"a": "\\":", "b": {"c": 1, "c": 2}}', "duplicate key 'c'"),
        (b'{"a": [{"b": 1}, {"b": 1, "b": {"c": 1}}]}', "duplicate key 'b'"),
        (b'{"a": 1}{"b": 2}', "invalid JSON: Extra data at line 1, column 9"),
        (b'{"a": 1,\n "b" 2}', "invalid JSON: Expecting ':' delimiter at line 2, column 6"),
        (b"{'a': 1}", "invalid JSON: Expecting property name enclosed in double quotes at line 1, column 2"),
        (b'"\\ud800"', "invalid JSON: a \\u escape is half of a surrogate pair, which is no character"),
        (b"[" * 100_000, "limit exceeded: nesting is too deep"),
        (b'{"a":' * 100_000, "limit exceeded: nesting is too deep"),
        (b"1" * 5000, "limit exceeded: an integer has too many digits"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_refusals_name_the_reason(tmp_path, content, reason):
    assert refusal(tmp_path / "a.json", content) == reason


WHOLE = b'{"a": [1.5e-3, true, NaN, -Infinity, null, "te\\u00e9xt\\ud83d\\ude00"], "b": {"c": -2}}'


@pytest.mark.parametrize("length", range(1, len(WHOLE)))
def test_a_file_cut_anywhere_is_called_cut_off(tmp_path, length):
    assert refusal(tmp_path / "a.json", WHOLE[:length]).startswith("cut off: ")


def test_cut_off_says_where(tmp_path):
    assert refusal(tmp_path / "a.json", b'{"a": 1,\n "b": ') == "cut off: Expecting value at line 2, column 7"


def test_an_error_inside_the_text_is_not_cut_off(tmp_path):
    assert refusal(tmp_path / "a.json", b'{"a": tru, "b": 1}').startswith("invalid JSON: ")
    assert refusal(tmp_path / "a.json", b'["\\uZZ", 1, 2]').startswith("invalid JSON: ")


def test_the_size_limit_is_inclusive(tmp_path):
    assert read(tmp_path / "a.json", b"[1, 2]", max_bytes=6)[1] == [1, 2]
    assert (
        refusal(tmp_path / "a.json", b"[1, 23]", max_bytes=6)
        == "limit exceeded: bytes of a JSON file, over 6; --limit-factor raises it"
    )


def test_paths_that_are_not_readable_files(tmp_path):
    cases = {
        tmp_path / "missing.json": "no such file",
        tmp_path: "is a directory, not a JSON file",
        tmp_path / "nul\0.json": "is no path: embedded null byte",
        tmp_path / ("x" * 300): "cannot be read: File name too long",
    }
    for path, reason in cases.items():
        with pytest.raises(InputError) as caught:
            read_json(path, "shown.json")
        assert caught.value.what == reason


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_refused_rather_than_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(InputError, match="is not a regular file"):
        read_json(tmp_path / "pipe.json", "pipe.json")


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="this system has no user ids")
def test_a_file_without_permission(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("{}")
    path.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        with pytest.raises(InputError) as caught:
            read_json(path, "a.json")
    finally:
        os.seteuid(user)
    assert str(caught.value) == "a.json: cannot be read: Permission denied"


@given(st.binary(max_size=200) | st.text(alphabet='{}[]",:\\u0dD89aeE+-.tfnNI \n', max_size=60).map(str.encode))
def test_random_bytes_give_a_document_or_one_line(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "random.json"
    path.write_bytes(content)
    try:
        raw, _ = read_json(path, "random.json")
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert raw == content


DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=4),
    max_leaves=20,
)


@given(DOCUMENTS, st.booleans())
def test_what_json_writes_comes_back(tmp_path_factory, document, ascii_only):
    path = tmp_path_factory.getbasetemp() / "round.json"
    path.write_text(json.dumps(document, ensure_ascii=ascii_only), encoding="utf-8")
    assert read_json(path, "round.json")[1] == document


@pytest.mark.skipif(not MALFORMED.is_dir(), reason="the shared harness files are not here")
def test_files_that_are_not_json_are_refused():
    files = sorted(MALFORMED.iterdir())
    assert files
    for path in files:
        with pytest.raises(InputError):
            read_json(path, path.name)
