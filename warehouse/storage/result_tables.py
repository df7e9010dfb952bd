"""The stored tables of results, of the models that they belong to, and of models that were dropped or renamed."""

from __future__ import annotations

from layerhouse.vocabulary import LinkRule, RemovalAction, ResultStatus
from layerhouse.warehouse.storage.columns import COMMIT_COLUMNS, NOTES, TAGS, Column, Table

RESULTS = Table(
    "results",
    "One measured value of a result file.",
    ("result_id",),
    (
        Column(
            "result_id",
            "VARCHAR",
            "SHA-256 of the file's path and bytes; all rows of a file share it.",
            required=True,
        ),
        Column("measure_id", "VARCHAR", "Hash of what was measured: harness, task, metric, context, ...", required=True),
        Column("harness", "VARCHAR", "Program that wrote the file, such as native or lm_eval.", required=True),
        Column("harness_version", "VARCHAR", "Version of that program, if stated."),
        Column("harness_commit", "VARCHAR", "Git commit of that program, if stated."),
        Column("suite", "VARCHAR", "Group of tasks: model_info, perplexity, zeroshot, speed, memory, ..."),
        Column("task", "VARCHAR", "The task; for a perplexity the dataset."),
        Column(
            "subset",
            "VARCHAR",
            "Subset or configuration of the task, and the settings on which the value depends and which no other column has.",
        ),
        Column(
            "metric", "VARCHAR", "Name of the metric; one name for what versions of a harness call differently.", required=True
        ),
        Column("stated_task", "VARCHAR", "The task as the file writes it, if task is another name."),
        Column("stated_metric", "VARCHAR", "The metric as the file writes it, if metric is another name."),
        Column("filter", "VARCHAR", "Answer filter of the harness, such as none or strict-match."),
        Column("value", "DOUBLE", "The value; null unless status is ok. Accuracies are fractions."),
        Column("value_integer", "BIGINT", "The same value, if the file holds an integer."),
        Column("stderr", "DOUBLE", "Standard error; null if the file has none."),
        Column(
            "doubt",
            "VARCHAR",
            "Why the scale of the value is not sure; such a value is in no column of fractions and in no mean.",
        ),
        Column("n_shot", "INTEGER", "Examples in the prompt; null if the file does not state it, which is not 0.", "examples"),
        Column("n_samples", "BIGINT", "Documents that were scored.", "documents"),
        Column("higher_is_better", "BOOLEAN", "True if a higher value is better; null where not known."),
        Column("is_group", "BOOLEAN", "True for a mean over tasks."),
        Column("unit", "VARCHAR", "Unit of value: fraction, per_token, tok/s, ms/token, MiB, GiB, parameters, ..."),
        Column("dataset", "VARCHAR", "Dataset."),
        Column("split", "VARCHAR", "Split of the dataset."),
        Column("language", "VARCHAR", "Language of the documents, if stated."),
        Column(
            "chat_template",
            "VARCHAR",
            "How prompts were set as a chat: the template's name or hash, turns, system prompt; null if they were not, or "
            "nothing is stated.",
        ),
        Column("seq_len", "INTEGER", "Context length; null if the file does not state it.", "tokens"),
        Column("stride", "INTEGER", "Step between windows.", "tokens"),
        Column("batch_size", "INTEGER", "Batch size.", "sequences"),
        Column("hardware", "VARCHAR", "Hardware that it ran on."),
        Column("sample_limit", "DOUBLE", "Cap on the documents of a task; a capped score does not compare with others."),
        Column(
            "run_id", "VARCHAR", "Hash of how the model was loaded: of variant and loaded_as. Equal in all results of a run."
        ),
        Column(
            "variant",
            "VARCHAR",
            "What makes the run another one than that of the plain model, such as revision=step3000 or load_in_4bit; null "
            "for the plain model.",
        ),
        Column(
            "loaded_as",
            "VARCHAR",
            "What the tool found out while loading, as sha=2ab25ed, dtype=float16; it tells runs apart where it differs.",
        ),
        Column("arguments", TAGS, "All that the file says of how the model was loaded, without secrets."),
        Column("revision", "VARCHAR", "Revision of the model, as stated, or the commit that was loaded."),
        Column("adapter", "VARCHAR", "Adapter on the model."),
        Column("declared_model", "VARCHAR", "The model, as the file names it."),
        Column("run_at", "TIMESTAMPTZ", "When it ran; a time without a zone is taken as UTC."),
        Column("source_uri", "VARCHAR", "The file.", required=True),
        Column(
            "status",
            "VARCHAR",
            "`ok`, `nan`, `inf` or `missing`.",
            required=True,
            words=ResultStatus,
        ),
        Column("notes", NOTES, "What is unusual about the value."),
        Column(
            "rules_version",
            "INTEGER",
            "Version of the rules by which the file was read; null for rows of before there was one.",
        ),
        *COMMIT_COLUMNS,
    ),
    is_newest_shown=True,
)

LINKS = Table(
    "links",
    "Which model a result file belongs to; the newest link of a file counts.",
    (),
    (
        Column("result_id", "VARCHAR", "The result file.", required=True),
        Column("model_id", "VARCHAR", "The model.", required=True),
        Column(
            "rule",
            "VARCHAR",
            "How the model was found: `folder` (the file is inside the model's folder), `model_name`, `model_path`, "
            "`flat_name`, `last_name`, `by_hand`; `declared` if no model was found and the results stand alone.",
            required=True,
            words=LinkRule,
        ),
        Column("source_uri", "VARCHAR", "The file.", required=True),
        Column("file_id", "VARCHAR", "The file's contents: the rows of several models in one file share it, and no result_id."),
        Column("is_adapter", "BOOLEAN", "True where the model is the adapter that the rows name, not the model under it."),
        Column(
            "model_uri",
            "VARCHAR",
            "Folder of the model, where that is the one of the file.",
        ),
        Column("method", "VARCHAR", "Pruning method that the model's name declares."),
        Column("declared_ratio", "DOUBLE", "Share to remove that the name declares.", "fraction"),
        Column("declared_removed_layers", "INTEGER", "Number of removed layers that the name declares.", "layers"),
        Column("tags", TAGS, "Whatever else the name declares."),
        Column("linked_at", "TIMESTAMPTZ", "When the link was made, UTC.", required=True),
        *COMMIT_COLUMNS,
    ),
)

REMOVALS = Table(
    "removals",
    "Tombstones: a model dropped or renamed. Rows stay; a tombstone covers what earlier commits wrote under the name.",
    (),
    (
        Column("action", "VARCHAR", "`drop` or `rename`.", required=True, words=RemovalAction),
        Column("model_id", "VARCHAR", "Name that the covered rows have.", required=True),
        Column("new_model_id", "VARCHAR", "New name, if renamed."),
        *COMMIT_COLUMNS,
    ),
)
