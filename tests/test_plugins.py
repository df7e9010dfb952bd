"""Entries of registries that other packages add through entry points."""

from __future__ import annotations

import sys

import pytest

from layerhouse import plugins
from layerhouse.errors import UsageError
from layerhouse.plugins import load_plugins
from layerhouse.tests.plugin_packages import Part, install_package

GROUP = "layerhouse.test_parts"
SOURCE = "from layerhouse.tests.plugin_packages import Part\nFIRST, SECOND = Part('first'), Part('second')\nOTHER = 3\n"


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder of packages that are installed for this test alone."""
    monkeypatch.syspath_prepend(tmp_path / "site")
    modules = set(sys.modules)
    plugins._load_group.cache_clear()
    yield tmp_path / "site"
    plugins._load_group.cache_clear()
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def test_without_such_a_package_there_is_nothing(site):
    assert load_plugins(GROUP, Part, (Part("built-in"),)) == ()


def test_entries_are_ordered_by_package_and_name(site):
    install_package(site, "bravo", SOURCE, {GROUP: {"a": "bravo:FIRST"}})
    install_package(site, "alpha", SOURCE, {GROUP: {"z": "alpha:SECOND", "b": "alpha:THIRD"}, "other": {"x": "alpha:OTHER"}})
    (site / "alpha.py").write_text(SOURCE + "THIRD = Part('third')\n")
    assert [part.name for part in load_plugins(GROUP, Part)] == ["third", "second", "first"]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise RuntimeError('no\\nGPU')", "RuntimeError: no GPU"),
        ("import a_module_that_is_not_installed", "ModuleNotFoundError: No module named 'a_module_that_is_not_installed'"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("FIRST = 1", "AttributeError: module 'broken' has no attribute 'SECOND'"),
    ],
)
def test_an_entry_point_that_cannot_be_loaded_is_one_line_at_every_call(site, source, reason):
    install_package(site, "broken", source, {GROUP: {"part": "broken:SECOND"}})
    for _ in range(2):
        with pytest.raises(UsageError) as caught:
            load_plugins(GROUP, Part)
        expected = f"entry point part = broken:SECOND of package broken (group {GROUP}) cannot be loaded: {reason}"
        assert str(caught.value) == f"{expected}; repair or uninstall the package"


def test_an_entry_point_of_another_type_is_refused(site):
    install_package(site, "odd", SOURCE, {GROUP: {"part": "odd:OTHER"}})
    with pytest.raises(UsageError, match=r"entry point part = odd:OTHER of package odd .* is a int, expected a Part"):
        load_plugins(GROUP, Part)


def test_two_entries_of_one_name_are_refused_with_both_named(site):
    install_package(site, "alpha", SOURCE, {GROUP: {"a": "alpha:FIRST"}})
    with pytest.raises(UsageError, match=r"a = alpha:FIRST of package alpha .* the name 'first', which layerhouse itself has"):
        load_plugins(GROUP, Part, (Part("first"),))
    install_package(site, "bravo", SOURCE, {GROUP: {"b": "bravo:FIRST"}})
    plugins._load_group.cache_clear()
    with pytest.raises(UsageError, match=r"b = bravo:FIRST of .* which entry point a = alpha:FIRST of package alpha"):
        load_plugins(GROUP, Part)


def test_packages_are_looked_up_once_a_process(site, monkeypatch):
    import importlib.metadata

    calls = []
    original = importlib.metadata.entry_points
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **words: calls.append(words) or original(**words))
    assert [load_plugins(GROUP, Part), load_plugins(GROUP, Part)] == [(), ()]
    assert calls == [{"group": GROUP}]
