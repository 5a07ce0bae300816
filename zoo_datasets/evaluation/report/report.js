"use strict";
const content = JSON.parse(document.getElementById("content").textContent);
const main = document.getElementById("report");
// Okabe and Ito's colours, told apart by most eyes.
const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#f0e442", "#8c8c8c"];
const SCALE = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
const UNKNOWN = "#b8b8b8";
const drawings = [];

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}
function draw(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}
function told(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return String(value);
  return Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(4)));
}
function section(title, ...notes) {
  const made = make("section", {}, make("h2", {}, title), ...notes.map((text) => make("p", { class: "note" }, text)));
  main.append(made);
  return made;
}
function select(label, options, change) {
  const chosen = make("select", { "aria-label": label });
  for (const [value, text] of options) chosen.append(make("option", { value }, text));
  chosen.addEventListener("change", () => change(chosen.value));
  return make("label", {}, label + ": ", chosen);
}

// An empty chart with axes: `paint(plot)` gets the scales and is called again when the width changes.
function chart(parent, name, paint) {
  const box = make("div", { class: "chart" });
  const tip = make("div", { class: "tip", role: "status", hidden: "" });
  parent.append(box);
  const drawing = { box, redraw: () => redraw(), width: 0 };
  const redraw = () => {
    drawing.width = box.clientWidth;
    const width = Math.max(box.clientWidth, 260);
    const svg = draw("svg", { viewBox: `0 0 ${width} ${height(width)}`, role: "img", "aria-label": name });
    tip.hidden = true;
    box.replaceChildren(svg, tip);
    paint({ svg, width, height: height(width), tip, box });
  };
  drawings.push(drawing);
  redraw();
  return redraw;
}
const height = (width) => Math.round(Math.min(380, Math.max(230, width * 0.55)));

// Multiples of a round step that begin at or below `low` and end at or above `high`, or lie between them if `inside`.
// There are as many as have room, and at least three.
function ticks(low, high, room, inside = false) {
  const power = 10 ** Math.floor(Math.log10((high - low) / 10));
  const steps = [1, 2, 2.5, 5, 10, 20, 25, 50].map((factor) => factor * power);
  const [down, up] = inside ? [Math.ceil, Math.floor] : [Math.floor, Math.ceil];
  const ends = (step) => [down(low / step + (inside ? -1e-9 : 1e-9)), up(high / step + (inside ? 1e-9 : -1e-9))];
  const counts = steps.map((step) => ends(step)[1] - ends(step)[0] + 1);
  let at = counts.findIndex((count) => count <= Math.max(room, 3));
  while (at > 0 && counts[at] < 3) at -= 1;
  const [first, last] = ends(steps[at]), marks = [];
  for (let number = first; number <= last; number++) marks.push(number * steps[at]);
  const digits = Math.max(0, -Math.floor(Math.log10(steps[at]) + 1e-9) + (steps[at] / power === 2.5 || steps[at] / power === 25 ? 1 : 0));
  return { marks, text: (value) => value.toFixed(Math.min(digits, 12)) };
}
function axes(plot, x, y, labels) {
  const [left, right, top, bottom] = [56, 20, 10, 44];
  const [width, tall] = [plot.width - left - right, plot.height - top - bottom];
  const span = ([low, high]) => (high > low ? [low, high] : [low - 0.5, low + 0.5]);
  const rows = ticks(...span(y), 6);
  const columns = labels.marks ? null : ticks(...span(x), Math.max(3, width / 90), labels.inside);
  const ends = (marks, beyond = 0.02) => {
    const [low, high] = [marks[0], marks[marks.length - 1]], more = (high - low) * beyond;
    return [low - more, high + more];
  };
  const [y0, y1] = ends(rows.marks), [x0, x1] = columns && !labels.inside ? ends(columns.marks) : span(x);
  plot.x = (value) => left + ((value - x0) / (x1 - x0)) * width;
  plot.y = (value) => top + tall - ((value - y0) / (y1 - y0)) * tall;
  const lines = draw("g", { class: "rule" });
  plot.svg.append(lines);
  for (const value of rows.marks) {
    const at = plot.y(value);
    lines.append(draw("line", { x1: left, x2: left + width, y1: at, y2: at }));
    plot.svg.append(draw("text", { x: left - 6, y: at + 4, "text-anchor": "end" }, rows.text(value)));
  }
  const marks = labels.marks ?? columns.marks.map((value) => [value, columns.text(value)]);
  for (const [value, text] of marks) {
    plot.svg.append(draw("text", { x: plot.x(value), y: top + tall + 17, "text-anchor": "middle" }, text));
  }
  plot.svg.append(draw("text", { x: left + width / 2, y: plot.height - 6, "text-anchor": "middle" }, labels.x));
  const turned = `rotate(-90 13 ${top + tall / 2})`;
  plot.svg.append(draw("text", { x: 13, y: top + tall / 2, "text-anchor": "middle", transform: turned }, labels.y));
  plot.inner = { left, top, width, height: tall };
}
function extent(values) {
  const known = values.filter((value) => value !== null);
  return [Math.min(...known), Math.max(...known)];
}

// The nearest of some points is told while the pointer, or a finger, is near it.
function hover(plot, points) {
  const ring = draw("circle", { r: 7, fill: "none", class: "ring", visibility: "hidden" });
  plot.svg.append(ring);
  const hide = () => {
    plot.tip.hidden = true;
    ring.setAttribute("visibility", "hidden");
  };
  const show = (event) => {
    const frame = plot.svg.getBoundingClientRect(), scale = plot.width / frame.width;
    const [x, y] = [(event.clientX - frame.left) * scale, (event.clientY - frame.top) * scale];
    let best = null, least = 24 ** 2;
    for (const point of points) {
      const distance = (point.x - x) ** 2 + (point.y - y) ** 2;
      if (distance < least) [best, least] = [point, distance];
    }
    if (!best) return hide();
    ring.setAttribute("cx", best.x);
    ring.setAttribute("cy", best.y);
    ring.setAttribute("visibility", "visible");
    plot.tip.replaceChildren(...best.lines.map((line) => make("div", {}, line)));
    plot.tip.hidden = false;
    const room = plot.box.clientWidth - plot.tip.offsetWidth;
    plot.tip.style.left = Math.max(0, Math.min(best.x / scale + 12, room)) + "px";
    plot.tip.style.top = best.y / scale + 12 + "px";
  };
  plot.svg.addEventListener("pointermove", show);
  plot.svg.addEventListener("pointerdown", show);
  plot.svg.addEventListener("pointerleave", hide);
}

// Box plots side by side: boxes are [name, {count, low, quantiles: 5, 25, 50, 75, 95 %, high}].
function boxes(parent, name, labels, list) {
  return chart(parent, name, (plot) => {
    const shown = list();
    const values = shown.flatMap(([, box]) => [box.quantiles[0], box.quantiles[4]]);
    const every = Math.ceil(shown.length / Math.max(1, Math.floor(plot.width / labels.room)));
    const marks = shown.map(([text], at) => [at, text]).filter((_, at) => at % every === 0);
    axes(plot, [-0.6, shown.length - 0.4], extent(values), { ...labels, y: labels.y(), marks });
    const half = Math.min(16, (plot.inner.width / shown.length) * 0.36);
    const points = shown.map(([text, box], at) => {
      const x = plot.x(at), q = box.quantiles, [w0, b0, middle, b1, w1] = q.map(plot.y);
      plot.svg.append(
        draw("path", { d: `M${x},${w0}V${w1}M${x - half / 2},${w0}h${half}M${x - half / 2},${w1}h${half}`, class: "whisker" }),
        draw("rect", { class: "box", x: x - half, width: 2 * half, y: b1, height: Math.max(b0 - b1, 0.5) }),
        draw("path", { d: `M${x - half},${middle}h${2 * half}`, class: "median" }),
      );
      const lines = [`${labels.x} ${text}: ${box.count} models`, `median ${told(q[2])}`,
        `quartiles ${told(q[1])} to ${told(q[3])}`, `5 to 95 % ${told(q[0])} to ${told(q[4])}`,
        `range ${told(box.low)} to ${told(box.high)}`];
      return { x, y: middle, lines };
    });
    hover(plot, points);
  });
}

function colouring(values) {
  const known = values.filter((value) => value !== null);
  const different = [...new Set(known)];
  if (known.every((value) => typeof value === "number") && different.length > COLOURS.length) {
    const low = Math.min(...known), high = Math.max(...known);
    const colour = (value) => {
      if (value === null) return UNKNOWN;
      const at = ((value - low) / (high - low || 1)) * (SCALE.length - 1), from = Math.min(Math.floor(at), SCALE.length - 2);
      return `rgb(${SCALE[from].map((part, i) => Math.round(part + (SCALE[from + 1][i] - part) * (at - from)))})`;
    };
    const stops = SCALE.map((rgb) => `rgb(${rgb})`).join(",");
    const bar = make("span", { class: "bar", style: `background:linear-gradient(90deg,${stops})` });
    return { colour, legend: [make("span", {}, told(low)), bar, make("span", {}, told(high))] };
  }
  different.sort((a, b) => (typeof a === "number" ? a - b : String(a).localeCompare(String(b))));
  const colour = (value) => (value === null ? UNKNOWN : COLOURS[different.indexOf(value) % COLOURS.length]);
  return {
    colour,
    legend: different.map((value) => make("span", {}, make("i", { style: `background:${colour(value)}` }), told(value))),
  };
}

function showFacts() {
  const facts = content.facts.map(([what, how]) => make("div", {}, make("dt", {}, what), make("dd", {}, how)));
  main.append(make("h1", {}, content.title ?? content.name), make("dl", { class: "facts" }, ...facts));
  for (const note of content.notes) main.append(make("p", { class: "note" }, note));
}

function showSheet() {
  if (!content.sheet || !content.sheet.pictures.length) return;
  const { pictures, of } = content.sheet;
  const beside = pictures.some(({ original }) => original) ? " To the right of each is the image that it was fitted to." : "";
  const part = section("Signals", `What ${pictures.length} of ${of} networks draw.${beside}`);
  part.append(sheetOf(pictures));
}
function sheetOf(pictures) {
  return make("div", { class: "sheet" }, ...pictures.map(({ image, original, caption, label }) => {
    const pair = make("div", { class: "pair" }, make("img", { src: image, alt: caption }));
    if (original) pair.append(make("img", { src: original, alt: `original of ${caption}` }));
    return make("figure", { title: caption }, pair, ...(label ? [make("figcaption", {}, label)] : []));
  }));
}

function showEpochs() {
  const columns = Object.entries(content.epochs);
  if (!columns.length) return;
  const what = content.sparse ? "sparsification epochs" : "epochs";
  const part = section(`Figures over ${what}`, "Boxes hold the middle half of the models, lines the middle 90 %.");
  let column = columns[0][0];
  const choice = select("figure", columns.map(([name, { label }]) => [name, label]), (value) => {
    column = value;
    redraw();
  });
  choice.querySelector("select").id = "figure";
  part.append(choice);
  const labels = { x: "epoch", y: () => column, room: 30 };
  const redraw = boxes(part, "figures over epochs", labels, () => Object.entries(content.epochs[column].boxes));
}

function showSparse() {
  if (!content.sparse) return;
  const part = section("Sparsity", "What was pruned, layer by layer, and what that cost, at the last epoch.");
  const grid = make("div", { class: "grid" });
  part.append(grid);
  const layers = Object.entries(content.sparse.layers);
  boxes(grid, "sparsity of layers", { x: "layer", y: () => "share of zeros", room: 90 },
    () => layers.map(([name, box]) => [name.replace(".weight", ""), box]));
  const pairs = content.sparse.points;
  if (pairs.length) {
    chart(grid, "accuracy against sparsity", (plot) => {
      axes(plot, extent(pairs.map((p) => p[0])), extent(pairs.map((p) => p[1])), { x: "sparsity", y: "test accuracy" });
      const points = pairs.map(([x, y]) => ({ x: plot.x(x), y: plot.y(y), lines: [`sparsity ${told(x)}`, `test accuracy ${told(y)}`] }));
      for (const { x, y } of points) plot.svg.append(draw("circle", { cx: x, cy: y, r: 3, fill: COLOURS[0], "fill-opacity": 0.6 }));
      hover(plot, points);
    });
  }
  if (content.sparse.parents) histogram(grid, content.sparse.parents, "twins");
}

function showMap() {
  const map = content.map, names = Object.keys(map.columns);
  if (map.models.length < 2) return;
  const part = section("Map of the zoo", `The weights of ${map.models.length} models at their last epoch, in the plane; `
    + "weights far outside of the usual range are set to its bound.");
  let column = names[0];
  const legend = make("div", { class: "legend", id: "legend" });
  if (names.length) {
    const choice = select("colour", names.map((name) => [name, name]), (value) => {
      column = value;
      redraw();
    });
    choice.querySelector("select").id = "colour";
    part.append(choice);
  }
  part.append(legend);
  const redraw = chart(part, "map of the zoo", (plot) => {
    const values = column ? map.columns[column] : map.models.map(() => null);
    const scheme = colouring(values);
    legend.replaceChildren(...scheme.legend);
    axes(plot, extent(map.x), extent(map.y), { x: map.labels[0], y: map.labels[1] });
    plot.svg.id = "map";
    const points = map.models.map((model, at) => {
      const [x, y] = [plot.x(map.x[at]), plot.y(map.y[at])];
      plot.svg.append(draw("circle", { cx: x, cy: y, r: 4, fill: scheme.colour(values[at]), stroke: "#0006", "stroke-width": 0.6 }));
      return { x, y, lines: [`model ${model}`, ...names.map((name) => `${name}: ${told(map.columns[name][at])}`)] };
    });
    hover(plot, points);
  });
}

function showEffects() {
  if (!content.effects.length) return;
  const part = section("Hyperparameters and test accuracy",
    "At the last epoch; the share is that of the variance between models that lies between the groups (η²).");
  const grid = make("div", { class: "grid" });
  part.append(grid);
  for (const effect of content.effects) {
    const label = `${effect.hyperparameter} (${Math.round(effect.explained * 100)} % of variance)`;
    boxes(grid, label, { x: label, y: () => "test accuracy", room: 110 }, () => Object.entries(effect.boxes));
  }
}

function showTrajectories() {
  const found = content.trajectories;
  if (!found) return;
  const part = section("Trajectories", `The training of ${found.models.length} models, in the plane of their principal `
    + "components; the ring is the beginning.");
  chart(part, "trajectories", (plot) => {
    axes(plot, extent(found.x.flat()), extent(found.y.flat()), { x: found.labels[0], y: found.labels[1] });
    const points = [];
    found.models.forEach((model, at) => {
      const path = found.x[at].map((x, step) => [plot.x(x), plot.y(found.y[at][step])]);
      const colour = COLOURS[at % COLOURS.length];
      plot.svg.append(draw("polyline", { points: path.map((p) => p.join()).join(" "), fill: "none", stroke: colour, "stroke-width": 1.5 }));
      plot.svg.append(draw("circle", { cx: path[0][0], cy: path[0][1], r: 3.5, class: "start", stroke: colour }));
      path.forEach(([x, y], step) => points.push({ x, y, lines: [`model ${model}`, `epoch ${found.epochs[step]}`] }));
    });
    hover(plot, points);
  });
  part.append(summary(Object.entries(found.measures)));
}

function summary(rows) {
  const head = ["", "median", "quartiles", "range"];
  const body = rows.filter(([, box]) => box).map(([label, box]) => [label, told(box.quantiles[2]),
    `${told(box.quantiles[1])} to ${told(box.quantiles[3])}`, `${told(box.low)} to ${told(box.high)}`]);
  return table(head, body, 0);
}
function table(head, body, wrapped = -1) {
  const cells = (row, tag) => row.map((text, at) => make(tag, at === wrapped && tag === "td" ? { class: "wrap" } : {}, text));
  const rows = body.map((row) => make("tr", {}, ...cells(row, "td")));
  const made = make("table", {}, make("thead", {}, make("tr", {}, ...cells(head, "th"))), make("tbody", {}, ...rows));
  return make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "table" }, made);
}

function histogram(parent, { label, counts, edges, box }, unit = "pairs") {
  const figure = make("div", {}, make("div", { class: "note" }, label));
  parent.append(figure);
  chart(figure, label, (plot) => {
    axes(plot, [edges[0], edges[edges.length - 1]], [0, Math.max(...counts)], { x: "", y: unit, inside: true });
    const points = counts.map((count, at) => {
      const [x0, x1, y] = [plot.x(edges[at]), plot.x(edges[at + 1]), plot.y(count)];
      plot.svg.append(draw("rect", { x: x0, width: Math.max(x1 - x0 - 0.5, 0.5), y, height: plot.y(0) - y, class: "bin" }));
      return { x: (x0 + x1) / 2, y, lines: [`${told(edges[at])} to ${told(edges[at + 1])}`, `${count} ${unit}`,
        `median ${told(box.quantiles[2])}`] };
    });
    hover(plot, points);
  });
}
function showAlike() {
  if (!content.alike.length) return;
  const part = content.sheet ? section("Figures, and how alike networks are", "Of pairs: all of some of the networks.")
    : section("How alike models are", "All pairs of some of the models, at their last epoch.");
  part.append(summary(content.alike.map(({ label, box }) => [label, box])));
  const grid = make("div", { class: "grid" });
  part.append(grid);
  for (const entry of content.alike) histogram(grid, entry, entry.unit);
}

function showBetween() {
  const found = content.between;
  if (!found) return;
  const part = section("Between models", `The loss on ${found.images} test images on the straight line from one model to `
    + `another, medians of ${found.pairs} pairs with ${found.activation}: as they are, and with the channels of one put in `
    + "the order that fits the other. The barrier is the highest loss on the way less the mean of both ends.");
  const lines = Object.entries(found.lines);
  chart(part, "loss between models", (plot) => {
    axes(plot, [0, 1], extent(lines.flatMap(([, losses]) => losses)), { x: "way from one model to the other", y: "loss" });
    const points = [];
    lines.forEach(([name, losses], at) => {
      const path = losses.map((loss, step) => [plot.x(found.share[step]), plot.y(loss)]);
      plot.svg.append(draw("polyline", { points: path.map((p) => p.join()).join(" "), fill: "none", stroke: COLOURS[at], "stroke-width": 2 }));
      path.forEach(([x, y], step) => points.push({ x, y, lines: [name, `loss ${told(losses[step])}`] }));
    });
    hover(plot, points);
  });
  part.append(table(["", "median barrier"], Object.entries(found.barriers).map(([name, value]) => [name, told(value)])));
}

function showBenchmark() {
  const record = content.benchmark;
  if (!record) return;
  const counts = record.rows.map((entry) => `${entry.zoo} ${entry.split} ${entry.models} models`).join(", ");
  const part = section("Benchmark", `What simple probes read from the weights: ${counts}; 95 % intervals over models. `
    + "The baseline is the mean or the most frequent class of training.");
  const fixed = (value) => (value === null ? "–" : Math.abs(value) < 100 ? value.toFixed(3) : value.toExponential(0));
  const score = (found) => (found ? `${fixed(found.value)} [${fixed(found.low)}, ${fixed(found.high)}]` : "");
  part.append(table(["target", "feature", "probe", "R²", "Kendall’s τ", "accuracy", "baseline", "tested on"],
    record.results.map((r) => [(r.scale === "log10" ? "log10 " : "") + r.target, r.feature, r.probe, score(r.scores.r2),
      score(r.scores.kendall), score(r.scores.accuracy), fixed(r.baseline), r.test])));
  for (const [target, reason] of Object.entries(record.skipped)) {
    part.append(make("p", { class: "note" }, `${target}: not predicted, ${reason}`));
  }
}

function showPredictors() {
  const record = content.predictors;
  if (!record) return;
  const counts = record.rows.map((entry) => `${entry.zoo} ${entry.split} ${entry.models} models`).join(", ");
  const part = section("Models that read weights", `Trained within ${told(record.settings.budget)} s each, `
    + `${told(record.settings.seeds)} seeds: ${counts}; 95 % intervals over groups.`);
  const fixed = (value) => (value === null || value === undefined ? "–" : value.toFixed(3));
  const score = (found) => (found ? `${fixed(found.value)} [${fixed(found.low)}, ${fixed(found.high)}]` : "");
  part.append(table(["target", "model", "R²", "Kendall’s τ", "accuracy", "baseline", "parameters", "steps", "seconds", "tested on"],
    record.results.map((r) => [(r.scale === "log10" ? "log10 " : "") + r.target, r.model, score(r.scores.r2),
      score(r.scores.kendall), score(r.scores.accuracy), fixed(r.baseline), told(r.parameters), told(r.steps), told(r.seconds), r.test])));
  for (const { model, task, reason } of record.refused) part.append(make("p", { class: "note" }, `${model}, ${task}: not trained, ${reason}`));
}

function showErrors() {
  if (!content.errors || !content.errors.length) return;
  const part = section("What predictors got wrong", "Networks of the test rows by whether the first seed’s class is right: "
    + "under each its class, or its class → the predicted one. An image beside it is what it was fitted to.");
  const shown = make("div", {});
  const show = (at) => {
    const panel = content.errors[at];
    shown.replaceChildren(...["wrong", "right"].flatMap((side) => [
      make("h3", {}, `${side}: ${panel[side].length} of ${panel[`${side}_of`]}`), sheetOf(panel[side])]));
  };
  part.append(select("predictor", content.errors.map(({ model, target }, at) => [at, `${model}, ${target}`]), show), shown);
  show(0);
}

function showLeftOut() {
  const { models, states, entries, more, nonfinite } = content.left_out;
  const part = section("What was left out", `Models: ${models.found} found, ${models.written} written, ${models.left_out} `
    + `left out. States: ${states.found} found, ${states.written} written, ${states.left_out} left out.`);
  if (nonfinite) part.append(make("p", {}, `${nonfinite} models have weights that are not finite and are on no map.`));
  if (entries.length) part.append(table(["model", "epochs", "reason"], entries.map(([model, epochs, reason]) => [model, epochs.join(", "), reason]), 2));
  if (more) part.append(make("p", { class: "note" }, `and ${more} more, in manifest.json`));
}

for (const show of [showFacts, showSheet, showEpochs, showSparse, showMap, showEffects, showTrajectories, showAlike, showBetween, showBenchmark, showPredictors, showErrors, showLeftOut]) show();
// A chart that was drawn before its neighbours stood beside it, or in another window, has another width now.
const refit = () => drawings.filter(({ box, width }) => box.clientWidth !== width).forEach(({ redraw }) => redraw());
new ResizeObserver(refit).observe(main);
refit();
