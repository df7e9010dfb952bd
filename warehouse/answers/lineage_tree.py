"""The descent of models as indented text: each below what it was made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import duckdb

from layerhouse.escapes import visible
from layerhouse.vocabulary import BaseRule, Descent
from layerhouse.warehouse.answers.query import MODEL_NAMES, chosen_models, query_text, run_query

Row = Mapping[str, Any]

SHARES = (("same_share", "unchanged"), ("rounded_share", "rounded"), ("masked_share", "masked"), ("changed_share", "changed"))
WORDS = {
    Descent.ROOT: "root",
    Descent.ALONE: "no kin",
    Descent.SIBLING: "a sibling of others whose base is not here",
    Descent.KIN: "kin of others, and nothing tells which was made from which",
}


ASKED = f"{query_text('lineage')}\n{MODEL_NAMES}"
"""All SQL of the trees."""


def lineage_trees(connection: duckdb.DuckDBPyConnection, globs: Sequence[str], *, is_unicode: bool) -> str:
    """The trees that have a model which matches one of the globs, or all of them. Raises NotFoundError."""
    table = run_query(connection, "lineage")
    chosen = chosen_models(connection, globs) if globs else None
    wanted = None if chosen is None else {*chosen} & {*table["model_id"].to_pylist()}
    return draw_trees(table.to_pylist(), wanted, is_unicode=is_unicode)


def draw_trees(rows: Sequence[Row], wanted: set[str] | None, *, is_unicode: bool) -> str:
    """Rows of the view lineage as trees; with `wanted` only those with one of these models."""
    parents = _parents(rows)
    by_name = {row["model_id"]: row for row in rows}
    children: dict[str | None, list[str]] = {}
    for name in by_name:
        children.setdefault(parents[name], []).append(name)
    lines: list[str] = []
    for top in sorted(children.get(None, [])):
        tree = list(_walk(top, children))
        if wanted is None or wanted & {name for name, _ in tree}:
            lines += [_line(by_name[name], parents[name], depth, is_unicode=is_unicode) for name, depth in tree]
    return "\n".join(lines) + "\n" if lines else ""


def _parents(rows: Sequence[Row]) -> dict[str, str | None]:
    """What each model stands below: its parent, or else the base that it is compared with; never one of its own descendants."""
    names = {row["model_id"] for row in rows}
    above: dict[str, str | None] = {row["model_id"]: row["parent_model"] for row in rows}
    for row in rows:
        name, base = row["model_id"], row["base_model"]
        if (
            above[name] is None
            and row["descent"] is None
            and base in names
            and base != name
            and name not in _line_of(base, above)
        ):
            above[name] = base
    return above


def _line_of(name: str, above: Mapping[str, str | None]) -> set[str]:
    """A model and all that it stands below."""
    seen: set[str] = set()
    current: str | None = name
    while current is not None and current not in seen:
        seen.add(current)
        current = above.get(current)
    return seen


def _walk(top: str, children: Mapping[str | None, Sequence[str]]) -> list[tuple[str, tuple[bool, ...]]]:
    """A tree from its top, each model with whether it and each one that it stands below is the last of its parent's."""
    found: list[tuple[str, tuple[bool, ...]]] = []
    waiting: list[tuple[str, tuple[bool, ...]]] = [(top, ())]
    while waiting:
        name, lasts = waiting.pop()
        found.append((name, lasts))
        below = sorted(children.get(name, []))
        waiting += [(child, (*lasts, child == below[-1])) for child in reversed(below)]
    return found


def _line(row: Row, parent: str | None, lasts: Sequence[bool], *, is_unicode: bool) -> str:
    space, bar, branch, corner = ("   ", "│  ", "├─ ", "└─ ") if is_unicode else ("   ", "|  ", "|- ", "`- ")
    indent = "".join(space if last else bar for last in lasts[:-1]) + ("" if not lasts else corner if lasts[-1] else branch)
    return f"{indent}{visible(row['model_id'])}  {visible(_text(row, parent))}"


def _text(row: Row, parent: str | None) -> str:
    """What a model is, and the evidence."""
    descent = row["descent"]
    if descent is None:
        return "compared with it, not traced" if parent is not None else "not traced"
    if descent in WORDS:
        return WORDS[Descent(descent)]
    if parent is None:
        return f"{descent} of a model that is not here any more"
    shares = [
        f"{row[name]:.0%} {word}" if row[name] < 0.995 else f"all {word}" for name, word in SHARES if (row[name] or 0) >= 0.005
    ]
    texts = [f"{descent}: {', '.join(shares)}" if shares else str(descent)]
    if row["second_parent_model"] is not None:
        texts = [f"merge with {row['second_parent_share']:.0%} of {row['second_parent_model']}"]
    elif (row["changed_share"] or 0) >= 0.005:
        texts[0] += f" (distance {row['distance']:.2g})"
    if row["parent_rule"] == BaseRule.DECLARED:
        texts.append("as its files declare")
    if row["descent_confidence"] is not None:
        texts.append(f"confidence {row['descent_confidence']:.2f}")
    if row["runner_up_model"] is not None and (row["descent_confidence"] or 0) < 0.5:
        texts.append(f"or of {row['runner_up_model']}")
    return "; ".join(texts)
