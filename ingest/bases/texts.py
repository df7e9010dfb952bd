"""What an ingest says of a base that it found, or did not find: one line a model."""

from __future__ import annotations

from collections.abc import Sequence

from layerhouse.ingest.lineage.explain import CAST, LIKE, MASKED, SAME, VALUES, Explained
from layerhouse.ingest.lineage.settle import Verdict
from layerhouse.vocabulary import BaseRule, Descent

KINDS = (((SAME, VALUES), "unchanged"), ((CAST,), "rounded"), ((MASKED,), "masked"), ((LIKE,), "changed"))


def based_text(base: str, parents: Sequence[str], verdict: Verdict, rule: BaseRule | None) -> str:
    """The base of a model and why it is: what the parent explains, and the parent where it is another one."""
    reasons = []
    if verdict.relation == Descent.MERGE:
        reasons.append(f"a merge of {' and '.join(parents)}")
    elif parents and parents[0] != base:
        reasons.append(f"through {parents[0]}")
    if verdict.relation == Descent.COPY:
        reasons.append("a copy")
    elif verdict.explained is not None and verdict.relation == Descent.CHILD:
        reasons.append(evidence_text(verdict.explained))
    if rule == BaseRule.DECLARED:
        reasons.append("named by its config")
    elif not verdict.is_certain and verdict.relation == Descent.CHILD:
        reasons.append("parent and child told apart by their relatives alone")
    return f"{base}, found by tensors: {'; '.join(reasons)}" if reasons else f"{base}, found by tensors"


def evidence_text(explained: Explained) -> str:
    """What of a child its parent explains, by share: `2 % unchanged, 98 % changed (distance 0.0017)`."""
    texts = []
    for kinds, word in KINDS:
        share = sum(explained.shares[kind] for kind in kinds)
        if share > 0:
            texts.append(f"{max(1, round(100 * share))} % {word}" if share < 0.995 else f"all of it {word}")
    return f"{', '.join(texts)} (distance {explained.cost:.2g})" if explained.shares[LIKE] else ", ".join(texts)


def baseless_text(relation: Descent, relative: str | None) -> str:
    """Why a model with relatives is compared with none of them."""
    of = "others" if relative is None else relative
    if relation == Descent.SIBLING:
        return f"no base: a sibling of {of}; the base of both is not here"
    return f"no base: kin of {of}, and nothing tells which was made from which"
