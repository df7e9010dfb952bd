"""A small sample of the trials in stress.py, so that they can be relied upon."""

from __future__ import annotations

import pytest

from layerhouse.tests import stress
from layerhouse.warehouse.answers.kept import states


@pytest.fixture(autouse=True)
def few_results_are_many(monkeypatch):
    monkeypatch.setattr(states, "LEAST_RESULTS", states.LEAST_RESULTS)  # put back what a trial changes


def test_a_flipped_bit_is_noticed_by_check_and_changes_no_verified_answer(tmp_path, capsys):
    stress.flips(tmp_path, 16, seed=7)
    assert "flips: 16, all noticed by check" in capsys.readouterr().out


def test_a_full_disk_is_one_line_and_damages_nothing(tmp_path, capsys):
    stress.full_disk(tmp_path, 2)
    assert "full disk: " in capsys.readouterr().out


def test_a_trial_fails_where_something_is_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(stress, "check_warehouse", lambda _: [])
    with pytest.raises(AssertionError, match="check did not notice"):
        stress.flips(tmp_path, 1)
