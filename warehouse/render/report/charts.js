"use strict";
// Draws the compiled figures with Vega. Expressions are interpreted, not evaluated, so that no code is made of text.

const CHART_VIEWS = new Map();
let isDark = matchMedia("(prefers-color-scheme: dark)").matches;

/** The colours of the theme that is shown. */
function colours() {
  return CHARTS.colours[isDark ? "dark" : "light"];
}

/**
 * Draw a figure in the element with an id, in place of the one that is there; `null` empties the element.
 *
 * A drawing has: `figure`, its name; `data`, rows by the names of data sets; `filled`, what stands for the places of its
 * specification; `label`, what it shows, as a sentence; `lines`, from a row to the pairs of texts of its tooltip; and it may have
 * `renderer` (svg or canvas), `opens`, from a row to the model to show when it is clicked, and `finish`, called with the view.
 */
async function drawFigure(id, drawing) {
  const box = byId(id);
  CHART_VIEWS.get(id)?.finalize();
  CHART_VIEWS.delete(id);
  box.replaceChildren();
  box.hidden = drawing === null;
  if (drawing === null) return;
  const specification = filledIn(CHARTS.figures[drawing.figure], drawing.filled ?? {});
  for (const set of specification.data) {
    if (set.name in drawing.data) set.values = drawing.data[set.name];
  }
  const drawn = element("div", { className: "drawing" });
  box.append(drawn);
  const view = new vega.View(vega.parse(specification, filledIn(CHARTS.config, {}), { ast: true }), {
    expr: vega.expressionInterpreter,
    renderer: drawing.renderer ?? "svg",
    container: drawn,
    hover: false,
    logLevel: 1,
  });
  CHART_VIEWS.set(id, view);
  // One picture with one sentence: its marks say nothing to a screen reader, and the tables have the same numbers.
  for (const name of ["aria-roledescription", "tabindex"]) drawn.removeAttribute(name);
  drawn.setAttribute("role", "img");
  drawn.setAttribute("aria-label", drawing.label);
  listen(view, drawing, drawn);
  await view.runAsync();
  drawn.firstElementChild.setAttribute("aria-hidden", "true");
  if (drawing.finish) await drawing.finish(view);
}

function listen(view, drawing, drawn) {
  view.addEventListener("mousemove", (event, item) => showTip(event, item?.datum, drawing));
  view.addEventListener("mouseout", hideTip);
  if (!drawing.opens) return;
  view.addEventListener("click", (_, item) => {
    const model = item?.datum && drawing.opens(item.datum);
    if (model) openModel(model);
  });
  drawn.classList.add("opens");
}

/** A copy of a specification with the colours of the theme, and with texts such as "@x" replaced by what is to stand there. */
function filledIn(part, filled) {
  if (typeof part === "string") return part in filled ? filled[part] : part;
  if (part === null || typeof part !== "object") return part;
  if (Array.isArray(part)) {
    const only = part.length === 1 && typeof part[0] === "string" && Array.isArray(filled[part[0]]);
    return only ? filled[part[0]] : part.map((item) => filledIn(item, filled));
  }
  const keys = Object.keys(part);
  if (keys.length === 2 && "light" in part && "dark" in part) return filledIn(isDark ? part.dark : part.light, filled);
  return Object.fromEntries(keys.map((key) => [key, filledIn(part[key], filled)]));
}

function showTip(event, datum, drawing) {
  const lines = datum ? drawing.lines(datum) : null;
  if (!lines) {
    hideTip();
    return;
  }
  const tip = byId("tip");
  tip.replaceChildren(...lines.map(([name, text]) => element("div", {}, element("b", {}, name), element("span", {}, text))));
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const isLow = event.clientY + 16 + height > innerHeight;
  tip.style.left = `${Math.max(4, Math.min(event.clientX + 12, innerWidth - width - 4))}px`;
  tip.style.top = `${isLow ? event.clientY - height - 8 : event.clientY + 16}px`;
}

function hideTip() {
  byId("tip").hidden = true;
}

/** Labels of points, each where it covers no other label, no point and no front; a label without such a place is left out. */
async function placeLabels(view, labelled, points, front) {
  const place = ({ x, y }) => [view.scale("x")(x), view.scale("y")(y)];
  const taken = [...points.map((point) => around(...place(point), 5)), ...frontBoxes(front, place)];
  const [width, height] = [view.width(), view.height()];
  const context = document.createElement("canvas").getContext("2d");
  context.font = "10px sans-serif";
  const labels = [];
  for (const point of labelled) {
    const [x, y] = place(point);
    const length = Math.min(170, context.measureText(point.text).width * 1.1 + 4);
    const fit = labelPlaces(x, y, length).find(({ box }) => {
      const isInside = box[0] >= 0 && box[2] <= width && box[1] >= 0 && box[3] <= height;
      return isInside && !taken.some((other) => overlap(box, other));
    });
    if (!fit) continue;
    taken.push(fit.box);
    labels.push({ ...point, ...fit.set });
  }
  await view.data("labels", labels).runAsync();
}

/** Boxes around the line of each front, which goes across from a point and then up or down to the next one. */
function frontBoxes(front, place) {
  const ofBase = new Map();
  for (const point of front) ofBase.set(point.base, [...(ofBase.get(point.base) ?? []), place(point)]);
  return [...ofBase.values()].flatMap((line) =>
    line.slice(1).flatMap(([x, y], position) => {
      const [fromX, fromY] = line[position];
      return [
        [fromX, fromY - 1, x, fromY + 1],
        [x - 1, Math.min(y, fromY), x + 1, Math.max(y, fromY)],
      ];
    }),
  );
}

function around(x, y, size) {
  return [x - size, y - size, x + size, y + size];
}

function overlap(a, b) {
  return a[0] < b[2] && a[2] > b[0] && a[1] < b[3] && a[3] > b[1];
}

/** The places for a label near a point, the best first: beside it, above and below, and at its corners; each with its box. */
function labelPlaces(x, y, length) {
  const across = {
    left: { align: "left", dx: 8, box: [x + 6, x + 8 + length] },
    right: { align: "right", dx: -8, box: [x - 8 - length, x - 6] },
    center: { align: "center", dx: 0, box: [x - length / 2, x + length / 2] },
  };
  const up = {
    middle: { baseline: "middle", dy: 0, box: [y - 6, y + 6] },
    bottom: { baseline: "bottom", dy: -4, box: [y - 17, y - 3] },
    top: { baseline: "top", dy: 4, box: [y + 3, y + 17] },
  };
  const order = "left middle,right middle,center bottom,center top,left bottom,right bottom,left top,right top".split(",");
  return order.map((text) => {
    const [first, second] = text.split(" ");
    const [{ box: [x1, x2], ...alongX }, { box: [y1, y2], ...alongY }] = [across[first], up[second]];
    return { set: { ...alongX, ...alongY }, box: [x1, y1, x2, y2] };
  });
}
