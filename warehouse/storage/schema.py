"""Every table and column of a warehouse: type, null, unit and one sentence. The only place that says so."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Column:
    """One column of a stored table.

    `type` is the DuckDB spelling; `unit` names what a number counts; `required` columns are never null.
    """

    name: str
    type: str
    text: str
    unit: str | None = None
    required: bool = False


@dataclass(frozen=True)
class Table:
    """One stored table: a folder of Parquet files of the same schema.

    `fact_key` names the columns that identify one measured fact. Where two commits hold the same fact, readers take the rows of
    one: the first commit's (two processes measured one checkpoint at once), or the newest's if `is_newest_shown`: a later
    ingest may find out more of it, and writes all of its rows anew. An empty key keeps every row.
    """

    name: str
    text: str
    fact_key: tuple[str, ...]
    columns: tuple[Column, ...]
    is_newest_shown: bool = False

    @property
    def column_names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)


NOTES = "STRUCT(code VARCHAR, text VARCHAR)[]"
TAGS = "MAP(VARCHAR, VARCHAR)"

COMMIT_COLUMNS = (
    Column("commit_id", "VARCHAR", "The commit that wrote this row; ids sort by time.", required=True),
    Column("ingested_at", "TIMESTAMPTZ", "When that commit was made, UTC.", required=True),
)

CHECKPOINTS = Table(
    "checkpoints",
    "A sighting: this model showed this content at this time, with what is known of the whole checkpoint.",
    (),
    (
        Column("model_id", "VARCHAR", "The model's name; null for a base that files describe but that is no model here."),
        Column("checkpoint_id", "VARCHAR", "Content hash of the checkpoint, 32 hex digits.", required=True),
        Column("source_uri", "VARCHAR", "The folder or file that was read.", required=True),
        Column("fingerprint", "VARCHAR", "Hash of path, size and mtime of the files read: equal means nothing to do."),
        Column(
            "source_kind",
            "VARCHAR",
            "weights, analysis, or config (a base known by that alone).",
            required=True,
        ),
        Column("container", "VARCHAR", "How the tensors are stored, such as safetensors; null for an analysis."),
        Column("method", "VARCHAR", "Pruning method that the name declares; null if it declares none."),
        Column("declared_ratio", "DOUBLE", "Share to remove that the name declares.", "fraction"),
        Column("declared_removed_layers", "INTEGER", "Number of removed layers that the name declares.", "layers"),
        Column("tags", TAGS, "What else the name says, such as finetuned."),
        Column("family", "VARCHAR", "Model family whose names the tensors follow."),
        Column("architecture", "VARCHAR", "Architecture that the config declares."),
        Column("declared", "VARCHAR", "Config and metadata as declared, as JSON text."),
        Column("declared_name", "VARCHAR", "Name that the files themselves give the checkpoint."),
        Column("declared_base", "VARCHAR", "Base that the files name."),
        Column("params", "BIGINT", "Parameters, a tied tensor once.", "parameters"),
        Column("params_stored", "BIGINT", "Parameters with every stored copy counted.", "parameters"),
        Column("embedding_params", "BIGINT", "Parameters of the input embedding.", "parameters"),
        Column("lm_head_params", "BIGINT", "Parameters of the output head.", "parameters"),
        Column("layer_params", "BIGINT", "Parameters of the layers of the stack that stands for the model.", "parameters"),
        Column("nonzero_params", "BIGINT", "Parameters whose value is not zero.", "parameters"),
        Column(
            "prunable_params",
            "BIGINT",
            "Linear weights of attention, MLP, experts and state-space mixers.",
            "parameters",
        ),
        Column("zeros", "BIGINT", "Parameters whose value is zero.", "parameters"),
        Column("prunable_zeros", "BIGINT", "Prunable parameters whose value is zero.", "parameters"),
        Column("logical_bytes", "BIGINT", "Bytes of the tensors as tensors.", "bytes"),
        Column("stored_bytes", "BIGINT", "Bytes of the storages that hold them.", "bytes"),
        Column("file_bytes", "BIGINT", "Bytes of the weight files.", "bytes"),
        Column("num_layers", "INTEGER", "Layers of the stack that stands for the model.", "layers"),
        Column(
            "macs_per_token",
            "BIGINT",
            "Multiply-accumulates of one token: the elements of linear weights, of experts those that it goes through.",
            "MACs",
        ),
        Column(
            "kv_cache_bytes_per_token",
            "BIGINT",
            "Bytes that one token takes in the KV cache, in the dtype of most parameters.",
            "bytes",
        ),
        Column("tied_embeddings", "BOOLEAN", "Whether the output head is the input embedding."),
        Column("tie_evidence", "VARCHAR", "What shows that: config, shared storage or equal bytes."),
        Column("stats_level", "VARCHAR", "How much was measured: none (headers or analysis), full, spectral."),
        Column(
            "device",
            "VARCHAR",
            "Where values were counted: cpu, or a GPU, such as cuda:0, if any tensor was.",
        ),
        Column("status", "VARCHAR", "ok, or partial where something could not be read.", required=True),
        Column("notes", NOTES, "What is unusual, disagrees or could not be known."),
        Column("tool_version", "VARCHAR", "Version of layerhouse that wrote the row.", required=True),
        *COMMIT_COLUMNS,
    ),
)

TENSORS = Table(
    "tensors",
    "One tensor of a checkpoint, measured.",
    ("checkpoint_id",),
    (
        Column("checkpoint_id", "VARCHAR", "The checkpoint.", required=True),
        Column("name", "VARCHAR", "Name in the file.", required=True),
        Column("canonical_name", "VARCHAR", "stack.layer.module.role.part in our words."),
        Column("stack", "VARCHAR", "text, vision, audio, encoder, decoder, projector or mtp (predicts further tokens)."),
        Column(
            "module",
            "VARCHAR",
            "attention, mlp, norm, embedding, lm_head, router, expert, ssm, rotation, adapter, quant_aux, buffer, other, ...",
        ),
        Column("role", "VARCHAR", "q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, ..."),
        Column("part", "VARCHAR", "weight, bias, or the storage part of a packed weight."),
        Column("layer_index", "INTEGER", "The checkpoint's own layer number."),
        Column("expert_index", "INTEGER", "The expert's number in its layer."),
        Column("dtype", "VARCHAR", "Element type in safetensors' spelling."),
        Column("shape", "BIGINT[]", "Shape as stored; [] is a scalar."),
        Column("weight_shape", "BIGINT[]", "Shape of the weight that it packs; null where it is stored plainly."),
        Column("params", "BIGINT", "Parameters that it holds; 0 for what is no parameter.", "parameters"),
        Column("is_parameter", "BOOLEAN", "False for buffers, masks, scales and indices."),
        Column("is_active", "BOOLEAN", "False where the config drops the sub-layer while its weights stay."),
        Column("logical_bytes", "BIGINT", "Bytes of its elements.", "bytes"),
        Column("stored_bytes", "BIGINT", "Bytes of the storage that holds it.", "bytes"),
        Column("content_hash", "VARCHAR", "XXH3-128 of its logical bytes in C order."),
        Column("zeros", "BIGINT", "Elements that are zero, of either sign.", "elements"),
        Column("near_zeros", "BIGINT", "Elements whose magnitude is at most near_zero_threshold.", "elements"),
        Column("near_zero_threshold", "DOUBLE", "The threshold that near_zeros was counted with."),
        Column("nans", "BIGINT", "Elements that are not a number.", "elements"),
        Column("infs", "BIGINT", "Elements that are infinite.", "elements"),
        Column("min", "DOUBLE", "Least finite value."),
        Column("max", "DOUBLE", "Greatest finite value."),
        Column("abs_max", "DOUBLE", "Greatest finite magnitude."),
        Column("mean", "DOUBLE", "Mean of the finite values."),
        Column("std", "DOUBLE", "Population standard deviation of the finite values."),
        Column("l1_norm", "DOUBLE", "Sum of magnitudes of the finite values."),
        Column("l2_norm", "DOUBLE", "Euclidean norm of the finite values."),
        Column("abs_quantiles", "DOUBLE[]", "1, 5, 25, 50, 75, 95, 99 % quantiles of the magnitudes."),
        Column("zero_rows", "BIGINT", "Rows (outputs) that are all zero.", "rows"),
        Column("zero_cols", "BIGINT", "Columns (inputs) that are all zero.", "columns"),
        Column("nm_pattern", "VARCHAR", "N:M pattern along the inputs, such as 2:4; trivial; not applicable."),
        Column("signature", "FLOAT[]", "Sketch that matches the tensor to its base."),
        Column("spectral_norm", "DOUBLE", "Greatest singular value."),
        Column("stable_rank", "DOUBLE", "Squared Frobenius norm over squared spectral norm."),
        Column("effective_rank", "DOUBLE", "Exponential of the entropy of the singular values."),
        Column("alpha", "DOUBLE", "Power-law exponent of the tail of the spectrum."),
        *COMMIT_COLUMNS,
    ),
    is_newest_shown=True,
)

LAYERS = Table(
    "layers",
    "One layer (decoder or encoder block) of a checkpoint.",
    ("checkpoint_id",),
    (
        Column("checkpoint_id", "VARCHAR", "The checkpoint.", required=True),
        Column("stack", "VARCHAR", "text, decoder, encoder, vision, audio or mtp.", required=True),
        Column("layer_index", "INTEGER", "The checkpoint's own layer number.", required=True),
        Column("params", "BIGINT", "Parameters of the layer.", "parameters"),
        Column("attention_params", "BIGINT", "Parameters of attention.", "parameters"),
        Column("mlp_params", "BIGINT", "Parameters of the MLP, experts included.", "parameters"),
        Column("norm_params", "BIGINT", "Parameters of norms.", "parameters"),
        Column("other_params", "BIGINT", "Parameters of everything else.", "parameters"),
        Column("role_params", "MAP(VARCHAR, BIGINT)", "Parameters by role: q_proj, k_proj, gate_proj, ...", "parameters"),
        Column("zeros", "BIGINT", "Parameters that are zero.", "parameters"),
        Column("num_heads", "INTEGER", "Query heads.", "heads"),
        Column("num_kv_heads", "INTEGER", "Key and value heads (KV groups).", "heads"),
        Column("head_dim", "INTEGER", "Rows of a head."),
        Column("intermediate_size", "INTEGER", "Width of the MLP.", "neurons"),
        Column("num_experts", "INTEGER", "Experts.", "experts"),
        Column("hidden_size", "INTEGER", "Width of the residual stream."),
        Column("macs_per_token", "BIGINT", "Multiply-accumulates of one token in the layer's linear weights.", "MACs"),
        Column("kv_values_per_token", "BIGINT", "Numbers that the layer's KV cache keeps of one token.", "values"),
        Column("attention_type", "VARCHAR", "Class of the attention module where a file states it."),
        Column("mlp_type", "VARCHAR", "Class of the MLP module where a file states it."),
        Column("is_zero_layer", "BOOLEAN", "No parameters of attention, MLP or a state-space mixer, or all of them zero."),
        *COMMIT_COLUMNS,
    ),
)

UNITS = Table(
    "units",
    "What structured pruning removes: a head, a KV group, an MLP neuron, an expert.",
    ("checkpoint_id",),
    (
        Column("checkpoint_id", "VARCHAR", "The checkpoint.", required=True),
        Column("stack", "VARCHAR", "text, vision, audio, encoder or decoder.", required=True),
        Column("layer_index", "INTEGER", "The checkpoint's own layer number.", required=True),
        Column("kind", "VARCHAR", "head, kv_group, neuron or expert.", required=True),
        Column("unit_index", "INTEGER", "Number of the unit in its layer.", required=True),
        Column("l2_norm", "DOUBLE", "Euclidean norm of its weights and biases; null where one is not finite."),
        Column("content_hash", "VARCHAR", "XXH3-128 of its parts' hashes."),
        Column("part_hashes", TAGS, "16 hex digits of the XXH3-128 of each part: q and o; k and v; gate, up and down; ..."),
        Column("signature", "FLOAT[]", "Sketches of the parts in the order of part_hashes, 16 numbers each, without biases."),
        *COMMIT_COLUMNS,
    ),
)

LAYER_MATCHES = Table(
    "layer_matches",
    "Which block of the base each layer is: a row for every layer of either side.",
    ("checkpoint_id", "base_checkpoint_id"),
    (
        Column("checkpoint_id", "VARCHAR", "The checkpoint.", required=True),
        Column("base_checkpoint_id", "VARCHAR", "The base that it is compared with.", required=True),
        Column("stack", "VARCHAR", "text, vision, audio, encoder or decoder.", required=True),
        Column("layer_index", "INTEGER", "Layer of the checkpoint; null where the base's block was removed."),
        Column("base_layer_index", "INTEGER", "Block of the base; null where the layer is new or its origin unknown."),
        Column(
            "match",
            "VARCHAR",
            "Rule that placed it: exact, similar, positional, declared; none: nothing says where it belongs.",
            required=True,
        ),
        Column("match_confidence", "DOUBLE", "How sure the rule is.", "fraction"),
        *COMMIT_COLUMNS,
    ),
    is_newest_shown=True,
)

UNIT_MATCHES = Table(
    "unit_matches",
    "Which unit of the base each head, KV group, neuron and expert is; layers that are no block of the base have no rows.",
    ("checkpoint_id", "base_checkpoint_id"),
    (
        Column("checkpoint_id", "VARCHAR", "The checkpoint.", required=True),
        Column("base_checkpoint_id", "VARCHAR", "The base that it is compared with.", required=True),
        Column("stack", "VARCHAR", "text, vision, audio, encoder or decoder.", required=True),
        Column("layer_index", "INTEGER", "Layer of the checkpoint.", required=True),
        Column("base_layer_index", "INTEGER", "Block of the base that the layer is.", required=True),
        Column("kind", "VARCHAR", "head, kv_group, neuron or expert.", required=True),
        Column("unit_index", "INTEGER", "Number of the unit in its layer.", required=True),
        Column("base_unit_index", "INTEGER", "Number of the unit in the block of the base; null where not known."),
        Column(
            "match",
            "VARCHAR",
            "exact (every part by hash), similar (by signature), inconsistent (its parts are of several units), none.",
            required=True,
        ),
        Column("confidence", "DOUBLE", "1 by hash; by signature the lead over the next best unit.", "fraction"),
        *COMMIT_COLUMNS,
    ),
    is_newest_shown=True,
)

TENSOR_MATCHES = Table(
    "tensor_matches",
    "What became of each tensor of the base.",
    ("checkpoint_id", "base_checkpoint_id"),
    (
        Column("checkpoint_id", "VARCHAR", "The checkpoint.", required=True),
        Column("base_checkpoint_id", "VARCHAR", "The base that it is compared with.", required=True),
        Column("name", "VARCHAR", "Tensor of the checkpoint; null where it was removed."),
        Column("base_name", "VARCHAR", "Tensor of the base; null where it was added."),
        Column(
            "relation",
            "VARCHAR",
            "identical, cast, masked, refilled, changed, sliced, added or removed.",
        ),
        Column("changed", "BIGINT", "Elements whose value differs.", "elements"),
        Column("relative_difference", "DOUBLE", "Norm of the difference over the norm of the base.", "fraction"),
        Column("cosine", "DOUBLE", "Cosine between the two."),
        *COMMIT_COLUMNS,
    ),
    is_newest_shown=True,
)

RESULTS = Table(
    "results",
    "One measured value of a result file.",
    ("result_id",),
    (
        Column(
            "result_id",
            "VARCHAR",
            "SHA-256 of the file's address and bytes; shared by all rows of the file.",
            required=True,
        ),
        Column("measure_id", "VARCHAR", "Hash of what was measured: harness, task, metric, context, ...", required=True),
        Column("harness", "VARCHAR", "The program that wrote the file, such as native or lm_eval.", required=True),
        Column("harness_version", "VARCHAR", "Its version, where stated."),
        Column("suite", "VARCHAR", "Group of tasks: model_info, perplexity, zeroshot, speed, memory, ..."),
        Column("task", "VARCHAR", "The task; for a perplexity the dataset."),
        Column("subset", "VARCHAR", "Subset or configuration of the task."),
        Column("metric", "VARCHAR", "Name of the measure as the file writes it.", required=True),
        Column("filter", "VARCHAR", "Answer filter of the harness, such as none or strict-match."),
        Column("value", "DOUBLE", "The value; null unless status is ok. Accuracies are fractions."),
        Column("value_integer", "BIGINT", "The same value where the file holds an integer."),
        Column("stderr", "DOUBLE", "Standard error; null where the file has none."),
        Column("n_shot", "INTEGER", "Examples in the prompt.", "examples"),
        Column("n_samples", "BIGINT", "Documents that were scored.", "documents"),
        Column("higher_is_better", "BOOLEAN", "Direction of the measure; null where not known."),
        Column("is_group", "BOOLEAN", "True for a mean over tasks."),
        Column("unit", "VARCHAR", "Unit of value: fraction, per_token, tok/s, ms/token, MiB, GiB, parameters, ..."),
        Column("dataset", "VARCHAR", "Dataset."),
        Column("split", "VARCHAR", "Split of the dataset."),
        Column("seq_len", "INTEGER", "Context length; null where the file does not say.", "tokens"),
        Column("stride", "INTEGER", "Step between windows.", "tokens"),
        Column("batch_size", "INTEGER", "Batch size.", "sequences"),
        Column("hardware", "VARCHAR", "Hardware that ran it."),
        Column("sample_limit", "DOUBLE", "Cap on the documents of a task; a capped score is not comparable."),
        Column("revision", "VARCHAR", "Revision of the model."),
        Column("adapter", "VARCHAR", "Adapter on the model."),
        Column("declared_model", "VARCHAR", "Model as the file names it."),
        Column("run_at", "TIMESTAMPTZ", "When it ran; a time without a zone is taken as UTC."),
        Column("source_uri", "VARCHAR", "The file.", required=True),
        Column("status", "VARCHAR", "ok, nan, inf or missing.", required=True),
        Column("notes", NOTES, "What is unusual about the value."),
        *COMMIT_COLUMNS,
    ),
)

LINKS = Table(
    "links",
    "Which model a result file belongs to; the newest link of a file wins.",
    (),
    (
        Column("result_id", "VARCHAR", "The result file.", required=True),
        Column("model_id", "VARCHAR", "The model.", required=True),
        Column(
            "rule",
            "VARCHAR",
            "folder (where the file lies), model_name, model_path, flat_name, last_name, by_hand; declared: stands alone.",
            required=True,
        ),
        Column("source_uri", "VARCHAR", "The file.", required=True),
        Column("model_uri", "VARCHAR", "The model's folder, where the rule is folder."),
        Column("method", "VARCHAR", "Pruning method that the model's name declares."),
        Column("declared_ratio", "DOUBLE", "Share to remove that the name declares.", "fraction"),
        Column("declared_removed_layers", "INTEGER", "Number of removed layers that the name declares.", "layers"),
        Column("tags", TAGS, "What else the name says."),
        Column("linked_at", "TIMESTAMPTZ", "When the link was made, UTC.", required=True),
        *COMMIT_COLUMNS,
    ),
)

REMOVALS = Table(
    "removals",
    "Tombstones: a model dropped or renamed. Rows stay; a tombstone covers what earlier commits wrote under the name.",
    (),
    (
        Column("action", "VARCHAR", "drop or rename.", required=True),
        Column("model_id", "VARCHAR", "Name that the covered rows carry.", required=True),
        Column("new_model_id", "VARCHAR", "New name, for a rename."),
        *COMMIT_COLUMNS,
    ),
)

TABLES: dict[str, Table] = {
    table.name: table
    for table in (CHECKPOINTS, TENSORS, LAYERS, UNITS, LAYER_MATCHES, UNIT_MATCHES, TENSOR_MATCHES, RESULTS, LINKS, REMOVALS)
}


def _arrow_type(sql_type: str) -> pa.DataType:
    import pyarrow as pa

    return {
        "VARCHAR": pa.string(),
        "BIGINT": pa.int64(),
        "INTEGER": pa.int32(),
        "DOUBLE": pa.float64(),
        "BOOLEAN": pa.bool_(),
        "TIMESTAMPTZ": pa.timestamp("us", tz="UTC"),
        "BIGINT[]": pa.list_(pa.int64()),
        "INTEGER[]": pa.list_(pa.int32()),
        "DOUBLE[]": pa.list_(pa.float64()),
        "FLOAT[]": pa.list_(pa.float32()),
        TAGS: pa.map_(pa.string(), pa.string()),
        "MAP(VARCHAR, BIGINT)": pa.map_(pa.string(), pa.int64()),
        NOTES: pa.list_(pa.struct([("code", pa.string()), ("text", pa.string())])),
    }[sql_type]


MEASURE_COLUMNS = (
    "harness",
    "suite",
    "task",
    "subset",
    "metric",
    "filter",
    "unit",
    "n_shot",
    "dataset",
    "split",
    "seq_len",
    "stride",
    "batch_size",
    "hardware",
    "sample_limit",
    "revision",
    "adapter",
)
"""What makes two values of a model runs of one measure; measure_id is the hash of those that a row has."""


@cache
def arrow_schema(table_name: str) -> pa.Schema:
    """The explicit Arrow schema with which every Parquet file of a table is written."""
    import pyarrow as pa

    return pa.schema(
        [pa.field(column.name, _arrow_type(column.type), nullable=not column.required) for column in TABLES[table_name].columns]
    )


@cache
def schema_digest() -> str:
    """16 hex digits over every table, column and type: two versions with the same digest write the same files."""
    text = "\n".join(
        f"{table.name} {column.name} {column.type} {column.required}" for table in TABLES.values() for column in table.columns
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]
