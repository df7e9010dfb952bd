"""The stored tables of what each checkpoint was made from, as its tensors tell, and of why it is compared with its base."""

from __future__ import annotations

from layerhouse.vocabulary import BaseRule, Descent
from layerhouse.warehouse.storage.columns import COMMIT_COLUMNS, Column, Table

DESCENTS = Table(
    "descents",
    "What a checkpoint was made from, found by the rows of its tensors, and the mean signatures by which kin is found.",
    ("checkpoint_id",),
    (
        Column("checkpoint_id", "VARCHAR", "The checkpoint.", required=True),
        Column(
            "descent",
            "VARCHAR",
            "`root` (others were made from it), `alone` (it has no kin), `copy`, `child`, `merge`, `sibling` (it shares an "
            "absent base with others) or `kin` (nothing tells parent from child); null if it was not looked for.",
            words=Descent,
        ),
        Column(
            "parent_checkpoint_id", "VARCHAR", "The checkpoint that it was made from; null if there is none or it is unknown."
        ),
        Column("second_parent_checkpoint_id", "VARCHAR", "The other parent of a merge."),
        Column(
            "parent_rule",
            "VARCHAR",
            "Why the parent is known: `found` (by tensors) or `declared` (by its files) ...",
            words=BaseRule,
        ),
        Column(
            "distance",
            "DOUBLE",
            "What the parent leaves unexplained: mean of the tensors' squared differences, each relative to its squared norm.",
        ),
        Column("same_share", "DOUBLE", "Share of the compared tensors whose values are the parent's.", "fraction"),
        Column("rounded_share", "DOUBLE", "Share that is the parent's rounded to another type.", "fraction"),
        Column("masked_share", "DOUBLE", "Share that is the parent's with values set to zero.", "fraction"),
        Column("changed_share", "DOUBLE", "Share that is only like the parent's.", "fraction"),
        Column("second_parent_share", "DOUBLE", "Of a merge, the share of its second parent.", "fraction"),
        Column("runner_up_checkpoint_id", "VARCHAR", "The next best parent."),
        Column("runner_up_distance", "DOUBLE", "What the next best parent leaves unexplained."),
        Column(
            "descent_confidence",
            "DOUBLE",
            "By how much the parent leads: 1 less the ratio of its distance to the runner-up's; half of that where only the "
            "shape of the tree tells parent from child.",
            "fraction",
        ),
        Column("probe_width", "BIGINT", "Width of the residual stream that the signatures lie over.", "elements"),
        Column("probe_roles", "VARCHAR[]", "Stack, module, role, part and length of the signatures that each mean is of."),
        Column("probe_values", "FLOAT[]", "The mean signatures, scaled to unit length, 64 numbers for each of probe_roles."),
        *COMMIT_COLUMNS,
    ),
    is_newest_shown=True,
)

BASE_CHOICES = Table(
    "base_choices",
    "Why a checkpoint is compared with its base, or with none.",
    ("checkpoint_id",),
    (
        Column("checkpoint_id", "VARCHAR", "The checkpoint.", required=True),
        Column("base_checkpoint_id", "VARCHAR", "The base that was chosen; null for none."),
        Column(
            "base_rule",
            "VARCHAR",
            "`found` (by tensors), `declared` (by its files), `named` (by a user), or `none` (a user said that it has none).",
            required=True,
            words=BaseRule,
        ),
        *COMMIT_COLUMNS,
    ),
    is_newest_shown=True,
)
