"use strict";
// Starts the page: what is shown follows the filter, the choices and the address.

const PAGE = { rows: [], timer: 0, turn: 0 };

function countOf(count, noun) {
  return `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
}

/** Show the models for which the filter holds, in the table and in all figures. */
async function update() {
  const { tests, faults } = parsedFilter(byId("filter").value);
  const method = byId("method").value;
  const rows = filteredRows(tests).filter((row) => method === "" || methodKey(row) === method);
  PAGE.rows = sortedRows(rows);
  byId("filter").setAttribute("aria-invalid", String(faults.length > 0));
  byId("faults").textContent = faults.join(" ");
  byId("count").textContent = `${PAGE.rows.length.toLocaleString("en")} of ${countOf(MODELS.rows, "row")}`;
  drawTable(PAGE.rows);
  drawNotes(PAGE.rows);
  await drawFigures(PAGE.rows);
}

function updateSoon() {
  clearTimeout(PAGE.timer);
  PAGE.timer = setTimeout(update, 120);
}

/** The method of a row as the choice of methods has it; a space stands for none. */
function methodKey(row) {
  return valueAt(MODELS, "method", row) ?? " ";
}

/** The notes of the shown models, each text once with its models. */
function drawNotes(rows) {
  const models = new Map();
  for (const row of rows) {
    const note = valueAt(MODELS, "status_note", row);
    if (note === null) continue;
    const named = models.get(note) ?? models.set(note, new Set()).get(note);
    named.add(valueAt(MODELS, "model_id", row));
  }
  const items = [...models].map(([note, named]) => {
    const links = [...named].flatMap((model, position) => [position ? ", " : "", modelLink(model)]);
    return element("li", {}, element("span", {}, visible(note)), element("br"), ...links);
  });
  byId("notes-list").replaceChildren(...items);
  byId("notes").hidden = !items.length;
}

function drawQueries() {
  const items = Object.entries(REPORT.queries).map(([name, sql]) =>
    element("details", {}, element("summary", {}, element("code", {}, name)), element("pre", { tabIndex: 0 }, sql)),
  );
  byId("queries-list").replaceChildren(...items);
}

function fillChoice(id, choices, chosen) {
  const options = choices.map(([value, text]) => element("option", { value }, text));
  byId(id).replaceChildren(...options);
  if (chosen !== undefined) byId(id).value = chosen;
  byId(id).addEventListener("change", update);
}

function drawChoices() {
  const methods = [...new Set(Array.from({ length: MODELS.rows }, (_, row) => methodKey(row)))].sort(compareTexts);
  fillChoice("method", [["", "all"], ...methods.map((method) => [method, method === " " ? NO_METHOD : visible(method)])]);
  const heat = Object.keys(HEAT_MEASURES).filter((name) => TABLES.layers.columns.has(name));
  fillChoice("heat-measure", heat.map((name) => [name, HEAT_MEASURES[name].title]));
  fillChoice("heat-stack", STACKS.map((stack) => [stack, visible(stack)]));
  byId("heat-stack").parentElement.hidden = STACKS.length < 2;
  const measures = MEASURES.map((name) => [name, name === HIGHER_IS_BETTER ? "mean accuracy" : `perplexity, ${visible(name)}`]);
  const perplexities = measures.filter(([name]) => name !== HIGHER_IS_BETTER);
  fillChoice("quality-measure", measures);
  fillChoice("quality2-measure", MEASURES.length > 1 ? measures : [], perplexities.at(-1)?.[0]);
  for (const [id, names] of [["speed-x", SPEED_AXES], ["speed-y", QUALITY_AXES]]) {
    const columns = names.map((name) => MODELS.columns.get(name)).filter(Boolean);
    fillChoice(id, columns.map((column) => [column.name, column.heading]));
  }
}

function showTheme() {
  document.documentElement.dataset.theme = isDark ? "dark" : "light";
  byId("theme").textContent = isDark ? "Light" : "Dark";
}

async function turnTheme() {
  isDark = !isDark;
  showTheme();
  await drawFigures(PAGE.rows);
  if (byId("model").open) await followAddress();
}

/** Close the choice of columns when something else is clicked; it lies above the table. */
function closeChoice(event) {
  const choice = byId("column-choice");
  if (choice.open && !choice.contains(event.target)) choice.open = false;
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const choice = byId("column-choice");
  if (event.key === "Escape" && choice.open && !byId("model").open) {
    choice.open = false;
    choice.querySelector("summary").focus();
  }
  const isTyping = /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement?.tagName ?? "");
  if (byId("model").open) {
    const isScrolling = document.activeElement?.classList.contains("scroll");
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step && !isTyping && !isScrolling) stepModel(step);
  } else if (event.key === "/" && !isTyping) {
    event.preventDefault();
    byId("filter").focus();
  }
}

async function start() {
  const layers = TABLES.layers.rows;
  byId("contents").textContent = `${countOf(ROWS_OF_MODEL.models.size, "model")}, ${countOf(layers, "layer")}`;
  showTheme();
  drawChoices();
  drawColumnChoice();
  drawQueries();
  byId("filter").addEventListener("input", updateSoon);
  byId("theme").addEventListener("click", turnTheme);
  byId("copy").addEventListener("click", copyTable);
  byId("previous").addEventListener("click", () => stepModel(-1));
  byId("next").addEventListener("click", () => stepModel(1));
  byId("model").addEventListener("close", () => {
    if (addressedModel() !== null) history.replaceState(null, "", location.pathname + location.search);
    delete byId("model").dataset.model;
  });
  addEventListener("keydown", onKey);
  addEventListener("click", closeChoice);
  addEventListener("hashchange", followAddress);
  await update();
  await followAddress();
  document.documentElement.dataset.ready = "yes";
}

start();
