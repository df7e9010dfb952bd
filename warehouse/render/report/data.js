"use strict";
// The data of the page: JSON in the form of columnar.py, decoded to one list of values a column. Texts are never markup: they
// are shown by `textContent` alone, with hidden characters as escapes.

const REPORT = JSON.parse(document.getElementById("data").textContent);
const CHARTS = JSON.parse(document.getElementById("charts").textContent);
const HIDDEN = new RegExp(REPORT.hidden, "gu");
const NOT_KNOWN = "–";
const NOT_FINITE = { nan: NaN, inf: Infinity, "-inf": -Infinity };

const TABLES = Object.fromEntries(Object.entries(REPORT.tables).map(([name, table]) => [name, decodedTable(table)]));
const MODELS = TABLES.models;
/** Positions of the rows of each table by the name of their model. */
const ROWS_OF_MODEL = Object.fromEntries(Object.entries(TABLES).map(([name, table]) => [name, rowsByModel(table)]));
/** The shortest ending of the name of each model that means just this model. Lengths count code points, as in Python. */
const SHORT_NAMES = new Map(REPORT.names.map((name, position) => [name, [...name].slice(-REPORT.shortLengths[position]).join("")]));

function decodedTable(table) {
  const columns = new Map();
  const valuesOf = (name) => {
    if (!columns.has(name)) {
      const column = table.columns[name];
      const decoded = decodedValues(column.values, valuesOf);
      if (decoded.length !== table.rows) throw new Error(`the column ${name} has another number of rows than its table`);
      columns.set(name, { ...column, name, values: column.number ? decoded.map(decodedNumber) : decoded });
    }
    return columns.get(name).values;
  };
  Object.keys(table.columns).forEach(valuesOf);
  // In the order of the table: a formula decodes its columns before itself.
  return { rows: table.rows, columns: new Map(Object.keys(table.columns).map((name) => [name, columns.get(name)])) };
}

/** The values of one of the forms of columnar.py; `valuesOf` gives those of another column by its name. */
function decodedValues(coded, valuesOf) {
  if (Array.isArray(coded)) return coded;
  if (coded.runs) return coded.runs.flatMap(([value, count]) => Array(count).fill(value));
  if (coded.ranges) return coded.ranges.flatMap(([first, count]) => Array.from({ length: count }, (_, step) => first + step));
  if (coded.words) return [...coded.codes].map((code) => coded.words[typeof code === "string" ? REPORT.codeLetters.indexOf(code) : code]);
  if (coded.names) return decodedValues(coded.names, valuesOf).map((position) => (position === null ? null : REPORT.names[position]));
  if (coded.same) return valuesOf(coded.same);
  if (coded.sum) {
    const rest = decodedValues(coded.rest, valuesOf);
    const [first, second] = coded.sum.map(valuesOf);
    return first.map((value, row) => value + second[row] + rest[row]);
  }
  const [first, second] = (coded.quotient ?? coded.reduction).map(valuesOf);
  const divide = coded.quotient ? (a, b) => (b === 0 ? null : a / b) : (a, b) => (a === 0 ? null : (a - b) / a);
  return first.map((value, row) => (value === null || second[row] === null ? null : divide(value, second[row])));
}

function decodedNumber(value) {
  if (typeof value !== "string") return value;
  if (value in NOT_FINITE) return NOT_FINITE[value];
  return /^-?\d+$/.test(value) ? BigInt(value) : Number(value);
}

function rowsByModel(table) {
  const found = new Map();
  table.columns.get("model_id")?.values.forEach((name, row) => {
    if (!found.has(name)) found.set(name, []);
    found.get(name).push(row);
  });
  return found;
}

/** A value of a table, null where it is not known. */
function valueAt(table, name, row) {
  return table.columns.get(name)?.values[row] ?? null;
}

/** Whether a column of a table has a value in one of some rows. */
function hasValues(table, name, rows) {
  return rows.some((row) => valueAt(table, name, row) !== null);
}

/** A text with its hidden characters as escapes such as \n and \u202e. */
function visible(text) {
  return String(text).replace(HIDDEN, (character) => {
    const known = { "\t": "\\t", "\n": "\\n", "\r": "\\r" }[character];
    const code = character.codePointAt(0);
    const [letter, digits] = code < 0x100 ? ["x", 2] : code < 0x10000 ? ["u", 4] : ["U", 8];
    return known ?? `\\${letter}${code.toString(16).padStart(digits, "0")}`;
  });
}

/** A value as people read it. */
function cellText(value, column) {
  if (value === null) return NOT_KNOWN;
  if (!column.number) return visible(value);
  return column.total ? `${numberText(value, column)}/${column.total}` : numberText(value, column);
}

function shortName(model) {
  return visible(SHORT_NAMES.get(model) ?? model);
}

/** An element with properties, attributes (names with a dash, and role) and children; texts become text nodes. */
function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.includes("-") || key === "role" || key === "scope") made.setAttribute(key, value);
    else made[key] = value;
  }
  made.append(...children);
  return made;
}

function byId(id) {
  return document.getElementById(id);
}
