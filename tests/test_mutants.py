"""What mutation testing runs: rooms with modules and tests that exist, and mutants that can change something."""

from __future__ import annotations

from itertools import chain

import pytest

from layerhouse.tests.mutants import ROOT, Score, annotation_spans, is_kept, rooms, select


def test_every_room_has_modules_and_tests_that_exist():
    for name, targets in rooms().items():
        assert targets, name
        for target in targets:
            assert target.tests
            assert all((ROOT / path).is_file() for path in (target.module, *chain(*target.tests))), target


def test_the_tests_named_after_a_module_run_first_and_alone():
    (target,) = select(["ingest/model/token_cost.py"])
    first, others = target.tests
    assert first == ("tests/test_token_cost.py",)
    assert "tests/test_token_cost.py" not in others
    assert "tests/test_layer_rows.py" in others


def test_rooms_and_modules_are_selected_and_others_refused():
    assert select(["statistics"]) == rooms()["statistics"]
    with pytest.raises(SystemExit, match="no room or module nothing; the rooms are model, "):
        select(["model", "nothing"])


def test_annotations_are_no_targets():
    source = "def f(a: int | None, *b: str) -> int | None:\n    c: int | None = a\n    return c | 1\n"
    spans = annotation_spans(source)
    lines = source.splitlines()
    texts = [lines[start[0] - 1][start[1] : end[1]] for start, end in spans]
    assert sorted(texts) == ["int | None", "int | None", "int | None", "str"]


@pytest.mark.parametrize(
    ("operator", "kept"),
    [
        ("core/ReplaceBinaryOperator_Add_Sub", True),
        ("core/ReplaceBinaryOperator_Add_Mul", False),
        ("core/ReplaceComparisonOperator_Eq_NotEq", True),
        ("core/ReplaceComparisonOperator_Eq_Is", False),
        ("core/ReplaceUnaryOperator_Delete_Not", True),
        ("core/NumberReplacer", True),
        ("core/AddNot", True),
    ],
)
def test_one_or_two_replacements_of_an_operator_are_run(operator, kept):
    assert is_kept(operator) is kept


def test_a_score_says_how_many_were_killed_and_whether_all_were_run():
    assert str(Score("a.py", 10, 10, ("a.py:1:1 AddNot: if x:",))) == "a.py: 9/10 killed"
    assert str(Score("a.py", 10, 4, ())) == "a.py: 4/4 killed (of 10, the time limit ended the run)"
