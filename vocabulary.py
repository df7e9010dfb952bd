"""The closed vocabularies of layerhouse: one StrEnum for each set of words that a column, a family file or an option may hold.

Members are their own text, so that rows, SQL and JSON hold plain words. The words that SQL files spell out are checked against
these enums by the tests.
"""

from __future__ import annotations

from enum import StrEnum

from layerhouse.roles import Role as Role  # noqa: PLC0414 - mypy takes this form alone for a re-export

ZERO_SHOT_TASKS: tuple[str, ...] = ("boolq", "piqa", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa")
"""The zero-shot tasks that have a column of their own and enter `mean_accuracy`, in the order of those columns."""


class Stack(StrEnum):
    """A part of a model that has layers of its own; the order is that in which a stack stands for the model."""

    TEXT = "text"
    DECODER = "decoder"
    ENCODER = "encoder"
    VISION = "vision"
    AUDIO = "audio"
    PROJECTOR = "projector"
    MTP = "mtp"


class Module(StrEnum):
    """What a tensor's module does."""

    ATTENTION = "attention"
    MLP = "mlp"
    EXPERT = "expert"
    SSM = "ssm"
    ROUTER = "router"
    NORM = "norm"
    EMBEDDING = "embedding"
    LM_HEAD = "lm_head"
    HEAD = "head"
    PROJECTOR = "projector"
    ROTATION = "rotation"
    BUFFER = "buffer"
    ADAPTER = "adapter"
    QUANT_AUX = "quant_aux"
    OTHER = "other"


class FusedLayout(StrEnum):
    """How several weights share one tensor."""

    QKV = "qkv"
    """Queries, keys, values in a row, sized by their heads."""
    QKV_THIRDS = "qkv_thirds"
    """Queries, keys, values in a row, of equal sizes."""
    QKV_GROUPED = "qkv_grouped"
    """One KV group after the other: its queries, its key, its value."""
    Q_GATE = "q_gate"
    """For each query head its queries, and then the gate of its output."""
    GATE_UP = "gate_up"
    """Gate and up, as halves or as rows in turn."""
    EXPERTS = "experts"
    """All experts in one matrix, one after the other."""


class UnitKind(StrEnum):
    """What structured pruning removes within a layer."""

    HEAD = "head"
    KV_GROUP = "kv_group"
    NEURON = "neuron"
    EXPERT = "expert"


class LayerMatch(StrEnum):
    """The rule that says which block of the base a layer is."""

    EXACT = "exact"
    SIMILAR = "similar"
    POSITIONAL = "positional"
    DECLARED = "declared"
    NONE = "none"


class UnitMatch(StrEnum):
    """How a unit of the base was found again."""

    EXACT = "exact"
    SIMILAR = "similar"
    INCONSISTENT = "inconsistent"
    NONE = "none"


class Relation(StrEnum):
    """What became of a tensor of the base."""

    IDENTICAL = "identical"
    CAST = "cast"
    MASKED = "masked"
    REFILLED = "refilled"
    CHANGED = "changed"
    SLICED = "sliced"
    GROWN = "grown"
    FACTORISED = "factorised"
    QUANTISED = "quantised"
    ADDED = "added"
    REMOVED = "removed"


class Unrelated(StrEnum):
    """Why it is not known what became of a tensor."""

    UNKNOWN_BLOCK = "block not known"
    UNREAD_VALUES = "values not compared"
    CONFIG_BASE = "base known by its config"
    PACKED = "packed on both sides"
    PACKED_BASE = "packed in the base"
    PACKED_UNLIKE = "packed, unlike the base"
    OTHER_SIZES = "fused on one side, other sizes"
    OTHER_ORDER = "fused on one side, other order"
    MULTIPLIED = "factors in the base"


class Verdict(StrEnum):
    """What the relations of all tensors and layers of a checkpoint amount to; several may hold."""

    IDENTICAL = "identical"
    BLOCKS_REMOVED = "blocks_removed"
    BLOCKS_REPEATED = "blocks_repeated"
    BLOCKS_REORDERED = "blocks_reordered"
    SLICED = "sliced"
    GROWN = "grown"
    FACTORISED = "factorised"
    QUANTISED = "quantised"
    MASKED = "masked"
    REFILLED = "refilled"
    TUNED = "tuned"
    RESHAPED = "reshaped"
    LEFT_OUT = "left_out"
    ADDED = "added"
    RELAID = "relaid"
    CAST = "cast"
    UNKNOWN = "unknown"


class Level(StrEnum):
    """By how much a block was cut; the macro `layer_level` has the thresholds."""

    REMOVED = "removed"
    ZERO = "zero"
    HEAVY = "heavy"
    MEDIUM = "medium"
    LIGHT = "light"
    UNTOUCHED = "untouched"
    GROWN = "grown"


class Gone(StrEnum):
    """Which part of a block does nothing any more: it has no parameters left, they are all zero, or the config drops it."""

    BLOCK = "block"
    ATTENTION = "attention"
    MLP = "mlp"
    ATTENTION_MLP = "attention_mlp"
    """Both of them, in a block that has or may have a state-space mixer."""


class LayerChange(StrEnum):
    """What happened to a block of the base besides its removal, in the order in which a layer's changes are listed."""

    DUPLICATED = "duplicated"
    """Another layer is the same block."""
    REORDERED = "reordered"
    """It stands on the other side of a block than in the base."""
    QUANTISED = "quantised"
    FACTORISED = "factorised"
    GROWN = "grown"
    SLICED = "sliced"
    MASKED = "masked"
    REFILLED = "refilled"
    CHANGED = "changed"
    CAST = "cast"
    ADDED = "added"
    """It has tensors that the base has not."""
    REMOVED = "removed"
    """It lacks tensors that the base has."""


class KeptBy(StrEnum):
    """What a share that is kept is counted in."""

    PARAMS = "params"
    NONZERO = "nonzero"
    """Parameters whose value is not zero."""
    BYTES = "bytes"
    MACS = "macs"


class Strategy(StrEnum):
    """How a model was cut; the macro `pruning_strategy` has the rules."""

    LAYER_REMOVAL = "layer_removal"
    MIXED = "mixed"
    SLICED = "sliced"
    MASKED = "masked"
    DENSE = "dense"
    STACKED = "stacked"
    REORDERED = "reordered"
    GROWN = "grown"
    UNIFORM = "uniform"
    NON_UNIFORM = "non_uniform"


class Descent(StrEnum):
    """What a checkpoint is among its kin."""

    ROOT = "root"
    """Others were made from it, and it from none of them."""
    ALONE = "alone"
    COPY = "copy"
    CHILD = "child"
    MERGE = "merge"
    SIBLING = "sibling"
    """It shares a base with others, which is not there."""
    KIN = "kin"
    """Of it and another one, either may be the parent, or an absent one that of both."""


class BaseMode(StrEnum):
    """What models are compared with if no base is named."""

    AUTO = "auto"
    """The first of the ancestors that their tensors show."""
    PARENT = "parent"
    """The model that they were made from."""
    NONE = "none"
    """Nothing, now and later."""


class BaseRule(StrEnum):
    """Why a checkpoint is compared with its base, or with none."""

    FOUND = "found"
    """By its tensors."""
    DECLARED = "declared"
    """By its own files."""
    NAMED = "named"
    """By a user."""
    NONE = "none"
    """A user said that it has none."""


class SourceKind(StrEnum):
    """What a model's structure was read from."""

    WEIGHTS = "weights"
    ANALYSIS = "analysis"
    CONFIG = "config"
    RESULTS = "results"
    """No structure: the view `models` has the model by its results alone."""


class StatsLevel(StrEnum):
    """How much of a checkpoint is measured, in rising order."""

    NONE = "none"
    """Headers alone."""
    FULL = "full"
    SPECTRAL = "spectral"
    """In full, and the spectra of weight matrices."""


class CompareMode(StrEnum):
    """Where values are read beside the base's."""

    AUTO = "auto"
    """Of models that are measured in this run."""
    ROWS = "rows"
    """Of none: stored rows alone are compared."""
    VALUES = "values"
    """Of every model."""


class EventKind(StrEnum):
    """What an ingest says of one input."""

    TAKEN = "taken"
    PLANNED = "planned"
    UNCHANGED = "unchanged"
    PASSED = "passed"
    FAILED = "failed"
    BASED = "based"
    """It is compared with a base that was found by itself."""


class CheckpointStatus(StrEnum):
    """Whether all of a checkpoint could be read."""

    OK = "ok"
    PARTIAL = "partial"


class ResultStatus(StrEnum):
    """What a result's value is; it is null unless `ok`."""

    OK = "ok"
    NAN = "nan"
    INF = "inf"
    MISSING = "missing"


class LinkRule(StrEnum):
    """What says which model a result file belongs to."""

    FOLDER = "folder"
    MODEL_NAME = "model_name"
    MODEL_PATH = "model_path"
    FLAT_NAME = "flat_name"
    LAST_NAME = "last_name"
    BY_HAND = "by_hand"
    DECLARED = "declared"


class RemovalAction(StrEnum):
    """What a tombstone does to a model's name."""

    DROP = "drop"
    RENAME = "rename"


class FindingKind(StrEnum):
    """What `check` finds in a warehouse."""

    DAMAGED = "damaged"
    ORPHAN = "orphan"
    FOREIGN = "foreign"
    SCHEMA = "schema"
    PROMISE = "promise"
    ASIDE = "aside"


class ZeroPattern(StrEnum):
    """How the zeros of a matrix lie along its inputs, in aligned groups (`nm_pattern`)."""

    TRIVIAL = "trivial"
    """All is zero."""
    NOT_APPLICABLE = "not applicable"
    """There are zeros, and four does not divide the inputs."""
    ONE_OF_FOUR = "1:4"
    """At most one value in each group of four."""
    TWO_OF_FOUR = "2:4"
    FOUR_OF_EIGHT = "4:8"
    """At most four values in each group of eight; eight divides the inputs."""


class MeasureKind(StrEnum):
    """What a row of the view `measures` is a value of."""

    TASK = "task"
    """A zero-shot task, by the metric that is usual for it."""
    SCORE = "score"
    """Any other score of a task."""
    GROUP = "group"
    """A score over several tasks."""
    PERPLEXITY = "perplexity"
    SPEED = "speed"
    MEMORY = "memory"
