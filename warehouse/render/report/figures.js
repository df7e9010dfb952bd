"use strict";
// The figures of the models that are shown: their rows, taken from the tables of the page.

const PERCENT = { kind: "ratio", digits: 2 };
const POINTS = { kind: "number", digits: 2, signed: true };
const NO_METHOD = "no method named";
const HIGHER_IS_BETTER = "mean_accuracy";

/** Draw all figures for some rows of the models' table; a later call takes over from one that is not done. */
async function drawFigures(rows) {
  PAGE.turn += 1;
  const { turn } = PAGE;
  const quality = ["quality", "quality2"].map((id) => () => drawTradeOff(id, rows));
  for (const draw of [() => drawHeat(rows), ...quality, () => drawTasks(rows), () => drawSpeed(rows)]) {
    if (turn === PAGE.turn) await draw();
  }
}

/** The names of the models in some rows of the models' table, each once. */
function modelsOf(rows) {
  return [...new Set(rows.map((row) => valueAt(MODELS, "model_id", row)))];
}

// ---- Models by blocks

const STACKS = [...new Set(TABLES.layers.columns.get("stack")?.values ?? [])];
const HEAT_MEASURES = {
  kept_share: { figure: "heat_kept", title: "share kept" },
  sparsity: { figure: "heat_zeros", title: "share of zeros" },
};

async function drawHeat(rows) {
  const measure = byId("heat-measure").value;
  const stack = byId("heat-stack").value;
  const models = modelsOf(rows);
  const found = models.map((model) => blockCells(model, measure, stack));
  const shown = models.filter((_, position) => found[position].cells.length);
  const labels = shown.map(shortName);
  const cells = found
    .filter((one) => one.cells.length)
    .flatMap((one, row) => one.cells.map((cell) => ({ ...cell, row })));
  const unplaced = models.filter((_, position) => found[position].unplaced);
  byId("heat-note").textContent = heatNote(unplaced, models.length - shown.length - unplaced.length, cells.length);
  await drawFigure(
    "heat",
    cells.length
      ? {
          figure: HEAT_MEASURES[measure].figure,
          data: { cells },
          filled: { "@labels": labels },
          renderer: "canvas",
          label: `${HEAT_MEASURES[measure].title} of each block of the base, for ${shown.length} models.`,
          lines: (cell) => (cell.model ? cellLines(cell, measure) : null),
          opens: (cell) => cell.model,
        }
      : null,
  );
}

/** The cells of a model by block of its base; `unplaced` where blocks are gone and nothing says which. */
function blockCells(model, measure, stack) {
  const cells = [];
  let unplaced = false;
  for (const layer of layersOf(model, stack)) {
    const block = valueAt(TABLES.layers, "base_layer_index", layer);
    const isRemoved = isRemovedLayer(layer);
    if (block === null) {
      unplaced ||= isRemoved;
      continue;
    }
    const share = valueAt(TABLES.layers, measure, layer);
    const state = isRemoved ? "removed" : share === null ? "not known" : "kept";
    cells.push({ model, block, share: isRemoved ? 0 : share, state, layer });
  }
  const isMeasured = measure === "kept_share" || cells.some((cell) => cell.state === "kept");
  return { cells: unplaced || !isMeasured ? [] : cells, unplaced };
}

function heatNote(unplaced, missing, count) {
  const sentences = [];
  if (unplaced.length) {
    sentences.push(`Blocks are gone and nothing says which: ${unplaced.map(shortName).join(", ")}.`);
  }
  if (missing) sentences.push(`${countOf(missing, "model")} without blocks compared with a base, or without this measure.`);
  if (!count && !sentences.length) sentences.push("No model is shown.");
  return sentences.join(" ");
}

function cellLines(cell, measure) {
  const layer = valueAt(TABLES.layers, "layer_index", cell.layer);
  const lines = [
    ["model", shortName(cell.model)],
    ["block of the base", String(cell.block)],
  ];
  if (cell.state === "removed") return [...lines, ["", "removed"]];
  const parts = ["attention_reduction_ratio", "mlp_reduction_ratio"].map((name) => [
    TABLES.layers.columns.get(name)?.heading,
    valueAt(TABLES.layers, name, cell.layer),
  ]);
  return [
    ...lines,
    ["layer", String(layer ?? NOT_KNOWN)],
    [HEAT_MEASURES[measure].title, cell.share === null ? "not known" : `${numberText(cell.share, PERCENT)} %`],
    ...parts.filter(([, value]) => value !== null).map(([heading, value]) => [heading, numberText(value, PERCENT)]),
  ];
}

/** Positions of the layers of a model, and of removed blocks, of one stack or of all. */
function layersOf(model, stack = null) {
  const layers = ROWS_OF_MODEL.layers.get(model) ?? [];
  return stack === null ? layers : layers.filter((layer) => valueAt(TABLES.layers, "stack", layer) === stack);
}

function isRemovedLayer(layer) {
  return valueAt(TABLES.layers, "level", layer) === "removed";
}

// ---- What is kept against quality

const MEASURES = [...new Set(TABLES.trade_off.columns.get("measure")?.values ?? [])];

async function drawTradeOff(id, rows) {
  const measure = byId(`${id}-measure`).value;
  const shown = new Set(modelsOf(rows));
  const points = [...Array(TABLES.trade_off.rows).keys()]
    .filter((row) => valueAt(TABLES.trade_off, "measure", row) === measure)
    .map(tradePoint)
    .filter((point) => shown.has(point.model) && point.x !== null);
  const isHigher = measure === HIGHER_IS_BETTER;
  for (const point of points) point.faint = !isOnFront(point, points, isHigher);
  const isLog = !isHigher && points.every((point) => point.y > 0);
  byId(`${id}-figure`).hidden = !measure;
  await drawFigure(
    id,
    points.length
      ? scatterDrawing(points, {
          figure: isLog ? "scatter_log" : "scatter",
          front: points.filter((point) => !point.faint).sort((a, b) => a.x - b.x),
          x: { title: `${keptTitle(TABLES.trade_off)} kept, of the base`, format: ".0%", column: { ...PERCENT, unit: " %" } },
          y: isHigher
            ? { title: "mean accuracy", format: ".0%", column: { ...PERCENT, unit: " %" } }
            : { title: `perplexity, ${visible(measure)}${isLog ? " (log)" : ""}`, format: ".3~s", column: { kind: "ppl", digits: 2 } },
        })
      : null,
  );
  byId(`${id}-note`).textContent = points.length ? "" : "No model that is shown has this measure and a base.";
}

function tradePoint(row) {
  const [model, x, y, base, method] = ["model_id", "kept_share", "value", "base_checkpoint_id", "method"].map((name) =>
    valueAt(TABLES.trade_off, name, row),
  );
  return { model, x, y, base: base ?? "", group: visible(method ?? NO_METHOD), text: shortName(model) };
}

/** Whether no other point of the same base keeps at most as much and is at least as good, and better in one of the two. */
function isOnFront(point, points, isHigher) {
  const isAsGood = (other) => (isHigher ? other.y >= point.y : other.y <= point.y);
  return !points.some(
    (other) =>
      other.base === point.base && other.x <= point.x && isAsGood(other) && (other.x !== point.x || other.y !== point.y),
  );
}

/** What the kept shares of a table are counted in. */
function keptTitle(table) {
  const measure = (table.columns.get("kept_by")?.values ?? []).find((value) => value !== null);
  return REPORT.keptTitles[measure] ?? "parameters";
}

/** A drawing of points with labels: those of the front, or all where there is none. */
function scatterDrawing(points, { figure, front, x, y }) {
  const groups = [...new Set(points.map((point) => point.group))].sort((a, b) => (a === NO_METHOD) - (b === NO_METHOD) || compareTexts(a, b));
  const { palette, muted } = colours();
  const named = front.length ? front : points;
  return {
    figure,
    data: { points, front, labels: [] },
    filled: {
      "@x": x.title,
      "@y": y.title,
      "@xFormat": x.format,
      "@yFormat": y.format,
      "@groups": groups,
      "@groupColours": groups.map((group, position) => (group === NO_METHOD ? muted : palette[position % palette.length])),
    },
    label: `${y.title} against ${x.title}: ${countOf(points.length, "model")}${front.length ? `, ${front.length} on the front` : ""}.`,
    lines: (point) =>
      point.model
        ? [
            ["model", point.text],
            ["method", point.group],
            [x.title, `${numberText(point.x, x.column)}${x.column.unit ?? ""}`],
            [y.title, `${numberText(point.y, y.column)}${y.column.unit ?? ""}`],
            ...(point.more ?? []),
          ]
        : null,
    opens: (point) => point.model,
    finish: (view) => placeLabels(view, named, points, front),
  };
}

// ---- Tasks against the base

async function drawTasks(rows) {
  const cells = [];
  const labels = [];
  for (const row of rows) {
    const own = taskDifferences(row);
    if (own.length) labels.push(shortName(own[0].model));
    cells.push(...own.map((cell) => ({ ...cell, row: labels.length - 1 })));
  }
  byId("tasks-note").textContent = cells.length ? "" : "No model that is shown shares one of these tasks with its base.";
  await drawFigure(
    "tasks",
    cells.length
      ? {
          figure: "tasks",
          data: { cells },
          filled: { "@labels": labels },
          renderer: "canvas",
          label: `Accuracy on each task less that of the base, for ${countOf(labels.length, "model")}.`,
          lines: (cell) =>
            cell.model
              ? [
                  ["model", shortName(cell.model)],
                  ["base", shortName(cell.base)],
                  [cell.task, `${numberText(cell.own, PERCENT)} %`],
                  ["of the base", `${numberText(cell.ofBase, PERCENT)} %`],
                  ["points", numberText(cell.points, POINTS)],
                ]
              : null,
          opens: (cell) => cell.model,
        }
      : null,
  );
}

/** What a run differs from its base by, in percentage points, for each task that both have. */
function taskDifferences(row) {
  const base = valueAt(MODELS, "base_model_id", row);
  const variant = valueAt(MODELS, "variant", row);
  const baseRow = (ROWS_OF_MODEL.models.get(base) ?? []).find((other) => valueAt(MODELS, "variant", other) === variant);
  if (base === null || baseRow === undefined || baseRow === row) return [];
  return Object.entries(REPORT.tasks)
    .map(([name, task]) => ({ task, own: valueAt(MODELS, name, row), ofBase: valueAt(MODELS, name, baseRow) }))
    .filter(({ own, ofBase }) => own !== null && ofBase !== null)
    .map((cell) => ({ ...cell, model: valueAt(MODELS, "model_id", row), base, points: 100 * (cell.own - cell.ofBase) }));
}

// ---- Speed

const SPEED_AXES = ["throughput_bs1", "throughput_bs4", "latency_ms_bs1", "latency_ms_bs4", "speedup_bs1", "speedup_bs4", "memory_mb", "size_gb"];
const QUALITY_AXES = ["mean_accuracy", "ppl_wikitext2", "ppl_ptb", "kept_share", "reduction_ratio", "size_gb"];

async function drawSpeed(rows) {
  const [x, y] = ["speed-x", "speed-y"].map((id) => MODELS.columns.get(byId(id).value));
  const points = x && y ? rows.map((row) => speedPoint(row, x, y)).filter((point) => point.x !== null && point.y !== null) : [];
  const hardware = new Set(points.map((point) => point.hardware ?? "hardware not stated"));
  const onSeveral = hardware.size > 1 ? `Measured on several machines, which do not compare: ${[...hardware].join(", ")}.` : "";
  byId("speed-note").textContent = points.length ? onSeveral : "No model that is shown has both.";
  byId("speed-axes").hidden = !x || !y;
  await drawFigure(
    "speed",
    points.length
      ? scatterDrawing(points, { figure: "scatter", front: [], x: axisOf(x), y: axisOf(y) })
      : null,
  );
}

function axisOf(column) {
  const isShare = column.kind === "ratio";
  return { title: visible(column.heading), format: isShare ? ".0%" : "~g", column };
}

function speedPoint(row, x, y) {
  const model = valueAt(MODELS, "model_id", row);
  const hardware = valueAt(MODELS, "speed_hardware", row);
  const [own, quality] = [x, y].map((column) => (column.values[row] === null ? null : Number(column.values[row])));
  return {
    model,
    x: own,
    y: quality,
    base: "",
    group: visible(valueAt(MODELS, "method", row) ?? NO_METHOD),
    text: shortName(model),
    hardware: hardware === null ? null : visible(hardware),
    more: [["hardware", hardware === null ? "not stated" : visible(hardware)]],
  };
}
