"use strict";
// The filter of the page: words that the name, method, strategy or note of a model has, and conditions such as reduction>20%.

const OPERATORS = {
  "<=": (a, b) => a <= b,
  ">=": (a, b) => a >= b,
  "!=": (a, b) => a !== b,
  "=": (a, b) => a === b,
  "<": (a, b) => a < b,
  ">": (a, b) => a > b,
};
const SEARCHED = ["model_id", "method", "strategy", "base_model", "status_note", "variant"];
const SEARCH_TEXTS = Array.from({ length: MODELS.rows }, (_, row) =>
  SEARCHED.map((name) => visible(valueAt(MODELS, name, row) ?? ""))
    .join("\n")
    .toLowerCase(),
);

/** What a text asks for: `tests` of rows of the models' table that all have to hold, and the `faults` in it, as sentences. */
function parsedFilter(text) {
  const tests = [];
  const faults = [];
  for (const [token] of text.matchAll(/(?:[^\s"]|"[^"]*"?)+/g)) {
    const parts = token.startsWith('"') ? null : /^([^<>=!]+)(<=|>=|!=|=|<|>)(.*)$/.exec(token);
    const found = parts ? condition(parts[1], parts[2], unquoted(parts[3])) : { test: wordTest(unquoted(token)) };
    if (found.fault) faults.push(found.fault);
    else tests.push(found.test);
  }
  return { tests, faults };
}

function unquoted(token) {
  return token.replaceAll('"', "");
}

function wordTest(word) {
  const sought = word.toLowerCase();
  return (row) => SEARCH_TEXTS[row].includes(sought);
}

function condition(name, operator, wanted) {
  const column = columnNamed(name);
  if (!column) return { fault: `No column is called “${visible(name)}”; columns with spaces are written with “_”.` };
  return column.number ? numberCondition(column, operator, wanted) : textCondition(column, operator, wanted);
}

function numberCondition(column, operator, wanted) {
  const parts = /^(-?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)(%?)$/i.exec(wanted);
  if (!parts) return { fault: `${column.heading}: “${visible(wanted)}” is not a number.` };
  const isShare = column.kind === "ratio";
  if (parts[2] && !isShare) return { fault: `${column.heading} is not a share, so it has no percent.` };
  const bound = parts[2] ? Number(parts[1]) / 100 : Number(parts[1]);
  if (isShare && !parts[2] && Math.abs(bound) > 1) {
    return { fault: `${column.heading} is a fraction: write ${parts[1]}% for ${bound / 100}.` };
  }
  return { test: (row) => isKnownAnd(column.values[row], (value) => OPERATORS[operator](Number(value), bound)) };
}

function textCondition(column, operator, wanted) {
  if (operator !== "=" && operator !== "!=") return { fault: `${column.heading} is text: use = or !=.` };
  const sought = wanted.toLowerCase();
  const holds = OPERATORS[operator];
  return { test: (row) => isKnownAnd(column.values[row], (value) => holds(visible(value).toLowerCase(), sought)) };
}

/** A row without the value meets no condition. */
function isKnownAnd(value, test) {
  return value !== null && test(value);
}

/** The column of the models' table with a name or heading, or the only one whose name or heading begins with a text. */
function columnNamed(text) {
  const sought = plainName(text);
  const columns = [...MODELS.columns.values()];
  const names = (column) => [plainName(column.name), plainName(column.heading)];
  const equal = columns.find((column) => names(column).includes(sought));
  const alike = columns.filter((column) => names(column).some((name) => name.startsWith(sought)));
  return equal ?? (alike.length === 1 ? alike[0] : null);
}

function plainName(text) {
  return text.toLowerCase().replace(/[\s_%]|gib$|mib$/g, "");
}

/** The rows of the models' table for which all tests hold. */
function filteredRows(tests) {
  return [...Array(MODELS.rows).keys()].filter((row) => tests.every((test) => test(row)));
}
