"use strict";
// One model in a dialog: its values, blocks, heads, changes and results.

const KEY_FACTS = [
  "variant", "method", "declared_ratio", "params", "reduction_ratio", "kept_share", "num_layers", "removed_layers", "strategy",
  "prunable_sparsity", "size_gb", "base_model", "ppl_wikitext2", "mean_accuracy", "throughput_bs1", "speedup_bs1", "status_note",
];
const LAYER_COLUMNS = [
  "stack", "base_layer_index", "layer_index", "kept_share", "attention_reduction_ratio", "mlp_reduction_ratio", "params",
  "num_heads", "num_kv_heads", "intermediate_size", "sparsity", "kept_level", "gone", "match",
];
const RESULT_COLUMNS = [
  "variant", "suite", "task", "subset", "metric", "value", "stderr", "unit", "n_shot", "n_samples", "seq_len", "batch_size",
  "hardware", "status", "doubt", "source_uri",
];
const UNIT_TITLES = { head: "heads", kv_group: "KV groups", expert: "experts" };
let openedModel = null;

function modelAddress(model) {
  return `#model=${encodeURIComponent(model)}`;
}

function openModel(model) {
  location.hash = modelAddress(model);
}

/** The model that the address names, or null. */
function addressedModel() {
  const [, code] = /^#model=(.*)$/s.exec(location.hash) ?? [];
  if (code === undefined) return null;
  try {
    const model = decodeURIComponent(code);
    return ROWS_OF_MODEL.models.has(model) ? model : null;
  } catch {
    return null; // an address that somebody cut
  }
}

/** Show the model that the address names, or close the dialog. */
async function followAddress() {
  const dialog = byId("model");
  const model = addressedModel();
  hideTip();
  if (model === null) {
    if (dialog.open) dialog.close();
    return;
  }
  openedModel = model;
  byId("model-title").textContent = visible(model);
  drawFacts(model);
  drawChanges(model);
  if (!dialog.open) dialog.showModal();
  drawLayers(model);
  drawResults(model);
  await drawBlocks(model);
  if (openedModel === model) await drawUnits(model);
  if (openedModel === model) dialog.dataset.model = model;
}

/** Go to the model that stands some rows below the opened one, in the order of the table. */
function stepModel(step) {
  const models = modelsOf(PAGE.rows);
  if (!models.length) return;
  const position = models.indexOf(openedModel);
  openModel(models[(position + step + models.length) % models.length]);
}

/** The values of a model that are asked for most, and all values behind a summary; a list for each of its runs. */
function drawFacts(model) {
  const rows = ROWS_OF_MODEL.models.get(model);
  const key = KEY_FACTS.map((name) => MODELS.columns.get(name)).filter(Boolean);
  byId("model-facts").replaceChildren(...rows.map((row) => factList(key, row)));
  byId("model-values").replaceChildren(...rows.map((row) => factList(choosableColumns(), row)));
}

function factList(columns, row) {
  const known = columns.filter((column) => column.name !== "model_id" && column.values[row] !== null);
  return element("dl", {}, ...known.map((column) => fact(column, row)));
}

function fact(column, row) {
  const text = cellText(column.values[row], column);
  const size = text.length > 24 ? "wide" : column.number ? "short" : "";
  return element("div", { className: size }, element("dt", {}, column.heading), element("dd", {}, text));
}

/** What became of the base's tensors: the verdict, and the counts that are not zero. */
function drawChanges(model) {
  const [row] = ROWS_OF_MODEL.changes.get(model) ?? [];
  byId("model-changes").hidden = row === undefined;
  if (row === undefined) return;
  const columns = [...TABLES.changes.columns.values()].filter((column) => column.number && column.values[row]);
  byId("model-verdict").textContent = visible(valueAt(TABLES.changes, "verdict", row) ?? "not known");
  byId("model-counts").replaceChildren(...columns.map((column) => fact(column, row)));
}

async function drawBlocks(model) {
  const layers = layersOf(model, mainStack(model));
  const rows = layers.map((layer) => ({
    layer,
    block: valueAt(TABLES.layers, "base_layer_index", layer),
    share: valueAt(TABLES.layers, "kept_share", layer),
    level: valueAt(TABLES.layers, "kept_level", layer) ?? "not known",
    isRemoved: isRemovedLayer(layer),
  }));
  const isPlaced = rows.length > 0 && rows.every((row) => row.block !== null);
  const bars = rows.filter((row) => !row.isRemoved && row.share !== null);
  const levels = REPORT.levels.filter((level) => bars.some((row) => row.level === level));
  const mean = valueAt(MODELS, "kept_layer_mean", ROWS_OF_MODEL.models.get(model)[0]);
  const sentence = mean === null ? "" : ` Mean over blocks: ${numberText(mean, PERCENT)} %.`;
  byId("model-blocks-note").textContent = `${blocksNote(rows, isPlaced, sentence)} ${stackNote(model)}`.trim();
  await drawFigure(
    "model-blocks",
    isPlaced && bars.length
      ? {
          figure: "blocks",
          data: { bars, gone: rows.filter((row) => row.isRemoved), mean: mean === null ? [] : [{ share: mean }] },
          filled: {
            "@y": `${keptTitle(TABLES.layers)} kept`,
            "@top": Math.max(1, ...bars.map((row) => row.share)),
            "@levels": levels,
            "@levelColours": levels.map((level) => colours().levels[level]),
          },
          label: `Share kept of each block.${sentence} The table of layers has the numbers.`,
          lines: (row) => (row.layer === undefined ? null : cellLines({ ...row, model, state: row.isRemoved ? "removed" : "kept" }, "kept_share")),
        }
      : null,
  );
}

/** The stack that stands for a model: the one that its summary is of, else the first. */
function mainStack(model) {
  const named = valueAt(MODELS, "stack", ROWS_OF_MODEL.models.get(model)[0]);
  const [first] = layersOf(model);
  return named ?? (first === undefined ? null : valueAt(TABLES.layers, "stack", first));
}

function blocksNote(rows, isPlaced, sentence) {
  if (!rows.length) return "No layers are known: results alone.";
  if (!rows.some((row) => row.block !== null)) return rows.some((row) => row.isRemoved) ? "Blocks are gone, and nothing says which." : "No base, so nothing says what was kept.";
  if (!isPlaced) return "Some layers have no block of the base; the table has all of them.";
  return sentence.trim();
}

/** Which stack the figures of a model are of, if it has others. */
function stackNote(model) {
  const stack = mainStack(model);
  const others = new Set(layersOf(model).map((layer) => valueAt(TABLES.layers, "stack", layer)));
  others.delete(stack);
  return others.size ? `Figures are of the ${visible(stack)} alone; the table of layers has the ${[...others].map(visible).join(", ")}, too.` : "";
}

async function drawUnits(model) {
  const stack = mainStack(model);
  for (const kind of Object.keys(UNIT_TITLES)) {
    const rows = (ROWS_OF_MODEL.units.get(model) ?? []).filter(
      (row) => valueAt(TABLES.units, "kind", row) === kind && valueAt(TABLES.units, "stack", row) === stack,
    );
    const cells = rows.flatMap(unitCells);
    await drawFigure(
      `model-${kind}`,
      cells.length
        ? {
            figure: "units",
            data: { cells },
            filled: { "@y": UNIT_TITLES[kind] },
            label: `Which ${UNIT_TITLES[kind]} of the base each block kept.`,
            lines: (cell) => (cell.state ? [["block of the base", String(cell.block)], [UNIT_TITLES[kind], String(cell.unit)], ["", cell.state]] : null),
          }
        : null,
    );
  }
}

/** A cell for each unit of a block; the units that are gone come as a text of numbers, as in tables. */
function unitCells(row) {
  const removed = valueAt(TABLES.units, "units_removed", row);
  const gone = new Set((removed ?? "").match(/\d+/g)?.map(Number));
  const block = valueAt(TABLES.units, "base_layer_index", row);
  return Array.from({ length: Number(valueAt(TABLES.units, "num_base_units", row)) }, (_, unit) => ({
    block,
    unit,
    state: removed === null ? "not known" : gone.has(unit) ? "removed" : "kept",
  }));
}

function drawLayers(model) {
  const rows = layersOf(model);
  const columns = LAYER_COLUMNS.map((name) => TABLES.layers.columns.get(name)).filter((column) => column && hasValues(TABLES.layers, column.name, rows));
  const shown = new Set(rows.map((row) => valueAt(TABLES.layers, "stack", row))).size > 1 ? columns : columns.filter((column) => column.name !== "stack");
  byId("model-layers").hidden = !rows.length;
  drawRows("layers", shown, rows, (column, row) => cellText(column.values[row], column));
}

function drawResults(model) {
  const rows = ROWS_OF_MODEL.results.get(model) ?? [];
  const columns = RESULT_COLUMNS.map((name) => TABLES.results.columns.get(name)).filter((column) => column && hasValues(TABLES.results, column.name, rows));
  byId("model-results").hidden = !rows.length;
  drawRows("results", columns, rows, resultText);
}

/** A value as its unit says: fractions in percent, whole numbers whole. */
function resultText(column, row) {
  const value = column.values[row];
  if (value === null || (column.name !== "value" && column.name !== "stderr")) return cellText(value, column);
  const isShare = valueAt(TABLES.results, "unit", row) === "fraction";
  if (isShare) return `${numberText(value, PERCENT)} %`;
  const whole = valueAt(TABLES.results, "value_integer", row) ?? (Number.isInteger(value) ? value : null); // beyond 2 ** 53 apart
  return column.name === "value" && whole !== null ? numberText(whole, { kind: "count" }) : numberText(value, column);
}

function drawRows(name, columns, rows, text) {
  const headings = columns.map((column) => element("th", { scope: "col", className: column.number ? "number" : "" }, column.heading));
  byId(`${name}-head`).replaceChildren(element("tr", {}, ...headings));
  byId(`${name}-body`).replaceChildren(
    ...rows.map((row) =>
      element("tr", {}, ...columns.map((column) => element("td", { className: column.number ? "number" : "text" }, text(column, row)))),
    ),
  );
}
