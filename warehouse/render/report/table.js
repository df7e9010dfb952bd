"use strict";
// The table of models: columns, order, and a copy as CSV.

const FIRST_COLUMNS = [
  "model_id", "variant", "method", "kept_share", "reduction_ratio", "prunable_sparsity", "num_layers", "num_removed_layers",
  "strategy", "size_gb", "ppl_wikitext2", "mean_accuracy", "throughput_bs1", "speedup_bs1",
];
const FORMULA_START = /^[=+\-@\t\r]/;
const TABLE = {
  shown: new Set(FIRST_COLUMNS.filter((name) => MODELS.columns.has(name))),
  sortedBy: "model_id",
  isDescending: false,
};

/** The columns to choose from: all but the full name of the base, whose short name is a column of its own. */
function choosableColumns() {
  return [...MODELS.columns.values()].filter((column) => column.name !== "base_model_id");
}

function shownColumns() {
  return choosableColumns().filter((column) => TABLE.shown.has(column.name));
}

function compareTexts(a, b) {
  return a.localeCompare(b, "en", { numeric: true });
}

/** Rows in the order of the column that the table is sorted by; rows without a value are last. */
function sortedRows(rows) {
  const { values, number } = MODELS.columns.get(TABLE.sortedBy);
  const sign = TABLE.isDescending ? -1 : 1;
  return [...rows].sort((a, b) => {
    const [first, second] = [values[a], values[b]];
    if (first === null || second === null) return (first === null) - (second === null) || a - b;
    const order = number ? (first > second) - (first < second) : compareTexts(first, second);
    return order * sign || a - b;
  });
}

function drawTable(rows) {
  const columns = shownColumns();
  byId("models-head").replaceChildren(element("tr", {}, ...columns.map(headingCell)));
  byId("models-body").replaceChildren(
    ...rows.map((row) => element("tr", {}, ...columns.map((column) => bodyCell(column, row)))),
  );
}

function headingCell(column) {
  const isSorted = TABLE.sortedBy === column.name;
  const order = !isSorted ? "none" : TABLE.isDescending ? "descending" : "ascending";
  const arrow = { none: "", ascending: " ▲", descending: " ▼" }[order];
  const button = element("button", { type: "button", title: column.name }, column.heading, element("span", { "aria-hidden": "true" }, arrow));
  button.addEventListener("click", () => sortBy(column.name));
  return element("th", { scope: "col", className: column.number ? "number" : "", "aria-sort": order, "data-column": column.name }, button);
}

/** Sort by a column; the same column again turns the order round. The focus stays on its heading. */
function sortBy(name) {
  TABLE.isDescending = TABLE.sortedBy === name && !TABLE.isDescending;
  TABLE.sortedBy = name;
  update();
  [...byId("models-head").querySelectorAll("th")].find((cell) => cell.dataset.column === name)?.querySelector("button").focus();
}

function bodyCell(column, row) {
  const value = column.values[row];
  if (column.name === "model_id") return element("th", { scope: "row", title: visible(value) }, modelLink(value));
  const text = cellText(value, column);
  const kind = column.number ? "number" : "text";
  return element("td", { className: value === null ? `${kind} missing` : kind, title: column.number ? "" : text }, text);
}

function modelLink(model) {
  const link = element("a", { href: modelAddress(model) }, shortName(model));
  return link;
}

function drawColumnChoice() {
  const choices = choosableColumns().map((column) => {
    const box = element("input", { type: "checkbox", checked: TABLE.shown.has(column.name), disabled: column.name === "model_id" });
    box.addEventListener("change", () => {
      if (box.checked) TABLE.shown.add(column.name);
      else TABLE.shown.delete(column.name);
      drawTable(PAGE.rows);
    });
    return element("label", { title: column.name }, box, ` ${column.heading}`);
  });
  byId("columns").replaceChildren(...choices);
}

/** The shown rows and columns as CSV: numbers at full precision, and no text that a spreadsheet would take for a formula. */
function tableCsv(rows) {
  const columns = shownColumns();
  const lines = [columns.map((column) => csvField(column.name, false))];
  for (const row of rows) lines.push(columns.map((column) => csvField(column.values[row], column.number)));
  return lines.map((fields) => `${fields.join(",")}\n`).join("");
}

function csvField(value, isNumber) {
  if (value === null) return "";
  const text = String(value);
  const guarded = !isNumber && FORMULA_START.test(text) ? `'${text}` : text;
  return guarded === "" || /[",\r\n]/.test(guarded) ? `"${guarded.replaceAll('"', '""')}"` : guarded;
}

async function copyTable() {
  const text = tableCsv(PAGE.rows);
  byId("said").textContent = (await isCopied(text))
    ? `Copied ${countOf(PAGE.rows.length, "row")}.`
    : "This browser does not let the page copy.";
}

async function isCopied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = element("textarea", { value: text, className: "hidden", "aria-label": "CSV" });
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy"); // the way of browsers that have no clipboard for files
    area.remove();
    return done;
  }
}
