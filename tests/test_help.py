"""The help of every command at 80 columns: whole sentences, no line that is too wide."""

from __future__ import annotations

import click
import pytest

from layerhouse.cli import cli

WIDTH = 80
TOP = click.Context(cli, info_name="layerhouse", terminal_width=WIDTH, **cli.context_settings)


def helped(name: str) -> str:
    command = cli.commands[name]
    return command.get_help(click.Context(command, info_name=name, parent=TOP))


def test_the_list_of_commands_has_a_whole_short_sentence_for_each():
    lines = cli.get_help(TOP).partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in lines] == sorted(cli.commands)
    for line in lines:
        name, text = line.split(maxsplit=1)
        assert len(line) <= WIDTH, line
        assert text.endswith(".") and not text.endswith("..."), line
        assert text[0].isupper(), line
        first_paragraph = " ".join((cli.commands[name].help or "").split("\n\n")[0].split())
        assert first_paragraph.startswith(text), f"{name}: the list shows another text than the help"


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_no_line_of_a_help_is_wider_than_the_terminal_or_cut_off(name):
    lines = helped(name).splitlines()
    assert [line for line in lines if len(line) > WIDTH] == []
    assert [line for line in lines if line.endswith("...") and not line.lstrip().startswith("Usage")] == []


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_every_command_and_option_is_described_by_sentences(name):
    command = cli.commands[name]
    assert (command.help or "").rstrip().endswith((".", ":")), name
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.name != "help":
            text = (parameter.help or "").partition("  [")[0]
            assert text.endswith("."), f"{name}: {parameter.opts[0]}: {text!r}"


@pytest.mark.parametrize("name", ["summarize", "performance", "layers", "lineage", "query", "diff"])
def test_tables_name_models_in_both_ways(name):
    text = helped(name)
    assert "[MODEL]..." in text.splitlines()[0]
    assert "-m, --model MODEL" in text
