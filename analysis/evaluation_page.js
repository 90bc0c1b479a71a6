// The page of evaluate.py --html. DATA comes from evaluation_page.py. Texts are set as textContent, never as HTML.
"use strict";

const STATES = ["right", "missed", "wrong"];
const $ = (id) => document.getElementById(id);
const LABELS = DATA.labels.map(([name, level, f1, precision, recall, support, predicted], id) => ({
  id, name, level, f1, precision, recall, support, predicted,
  shown: DATA.hierarchical ? name.split(/##(?!#)/).join(" › ") : name,
}));
const fixed = (number) => number.toFixed(2);

function cell(row, className, text) {
  return row.appendChild(element("td", className, text));
}

function bar(row, kind, share) {
  const inner = element("i");
  inner.style.width = `${100 * share}%`;
  cell(row, "drawn").appendChild(element("span", `bar ${kind}`)).appendChild(inner);
}

function nameCell(row, label) {
  const made = cell(row, "name", label.shown);
  made.title = label.name;
  return made;
}

function labelChoice(select, first) {
  if (first !== undefined) select.append(element("option", "", first, { value: "" }));
  for (const label of LABELS) select.append(element("option", "", label.shown, { value: label.id }));
}

// ------------------------------------------------------------------------------------------------------------- labels

let labelPager, pairPager, casePager; // of the language shown

function drawLabels(labels) {
  const most = Math.max(1, ...LABELS.map((label) => label.support));
  $("label-rows").replaceChildren(...labels.map((label) => {
    const row = element("tr");
    nameCell(row, label).append(
      element("small", "", say("rates", { precision: fixed(label.precision), recall: fixed(label.recall) })));
    bar(row, "f1", label.f1 / 100);
    cell(row, "number", fixed(label.f1));
    cell(row, "number extra", fixed(label.precision));
    cell(row, "number extra", fixed(label.recall));
    bar(row, "count", label.support / most);
    cell(row, "number", label.support);
    cell(row, "number extra", label.predicted);
    return row;
  }));
}

const ORDERS = {
  f1: (a, b) => a.f1 - b.f1 || b.support - a.support,
  best: (a, b) => b.f1 - a.f1 || b.support - a.support,
  support: (a, b) => b.support - a.support,
  file: (a, b) => a.id - b.id,
};

function showLabels() {
  const wanted = $("label-find").value.trim().toLowerCase(), level = $("label-level")?.value;
  labelPager.set(LABELS.filter((label) => (!level || label.level === Number(level)) &&
    (label.name.toLowerCase().includes(wanted) || label.shown.toLowerCase().includes(wanted)),
  ).sort(ORDERS[$("label-sort").value]));
}

// ------------------------------------------------------------------------------------------------------------- charts

const WIDTH = 440, HEIGHT = 330, LEFT = 46, BOTTOM = 42, TOP = 10, RIGHT = 12;
const across = (x) => LEFT + x * (WIDTH - LEFT - RIGHT);
const up = (y) => HEIGHT - BOTTOM - y * (HEIGHT - BOTTOM - TOP);

function shape(parent, tag, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return parent.appendChild(made);
}

function axes(description, x, y) {
  const chart = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  for (const [name, value] of Object.entries({ viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" }))
    chart.setAttribute(name, value);
  chart.setAttribute("aria-label", description);
  for (const tick of [0, 0.2, 0.4, 0.6, 0.8, 1]) {
    shape(chart, "line", { x1: across(tick), x2: across(tick), y1: up(0), y2: up(1) });
    shape(chart, "line", { x1: across(0), x2: across(1), y1: up(tick), y2: up(tick) });
    shape(chart, "text", { x: across(tick), y: up(0) + 16, "text-anchor": "middle" }, tick);
    shape(chart, "text", { x: across(0) - 6, y: up(tick) + 4, "text-anchor": "end" }, tick);
  }
  shape(chart, "text", { x: across(0.5), y: HEIGHT - 6, "text-anchor": "middle" }, x);
  shape(chart, "text", { x: 12, y: up(0.5), "text-anchor": "middle", transform: `rotate(-90 12 ${up(0.5)})` }, y);
  return chart;
}

function dot(chart, kind, x, y, radius, title) {
  const made = shape(chart, "circle", { class: kind, cx: across(x), cy: up(y), r: radius });
  shape(made, "title", {}, title);
}

function line(chart, kind, points) {
  const path = points.map(([x, y], i) => `${i ? "L" : "M"}${across(x).toFixed(1)} ${up(y).toFixed(1)}`).join("");
  if (path) shape(chart, "path", { class: kind, d: path });
}

function key(host, entries) {
  host.replaceChildren(...entries.map(([kind, text]) => element("span", kind, text)));
}

function showCurves() {
  const label = LABELS[Number($("focus").value)];
  const sides = [
    ["all", say("allLabels"), DATA.curves[0], DATA.calibration[0], DATA.micro],
    ["one", label.shown, DATA.curves[label.id + 1], DATA.calibration[label.id + 1],
      [label.f1, label.precision, label.recall]],
  ];
  const curve = axes(say("curve", { label: label.name }), say("recall"), say("precision"));
  const diagram = axes(say("diagram", { label: label.name }), say("probability"), say("shareGold"));
  shape(diagram, "line", { x1: across(0), x2: across(1), y1: up(0), y2: up(1), "stroke-dasharray": "4 4" })
    .style.stroke = "var(--soft)";
  for (const [kind, name, { points }, { bins }, [f1, precision, recall]] of sides) {
    line(curve, kind, points);
    dot(curve, kind, recall / 100, precision / 100, 5,
      say("decided", { label: name, precision: fixed(precision), recall: fixed(recall), f1: fixed(f1) }));
    line(diagram, kind, bins);
    for (const [probability, share, count] of bins)
      dot(diagram, kind, probability, share, 2 + Math.log10(count),
        say("bin", { label: name, count, mean: fixed(probability), share: fixed(share) }));
  }
  $("curve").replaceChildren(curve);
  $("reliability").replaceChildren(diagram);
  const rows = label.support === 1 ? say("row") : say("rows", { count: label.support });
  key($("curve-key"), sides.map(([kind, name, { ap }]) =>
    [kind, kind === "one" && !label.support ? say("noRows", { label: name }) : `${name}: AP ${fixed(ap)}`]));
  key($("reliability-key"), sides.map(([kind, name, , { ece }]) =>
    [kind, `${name}: ECE ${fixed(ece)} %${kind === "one" ? `, ${rows}` : ""}`]));
}

// -------------------------------------------------------------------------------------------------------------- pairs

function drawPairs(pairs) {
  const most = Math.max(0.01, ...DATA.pairs.map((pair) => pair[3]));
  $("pair-rows").replaceChildren(...pairs.map(([missed, instead, count, cost]) => {
    const row = element("tr");
    nameCell(row, LABELS[missed]);
    nameCell(row, LABELS[instead]);
    bar(row, "rows", cost / most);
    cell(row, "number", fixed(cost));
    cell(row, "number", count);
    cell(row, "number extra", `${((100 * count) / LABELS[missed].support).toFixed(1)} %`);
    const button = element("button", "", say("show"), {
      "aria-label": say("showPair", { missed: LABELS[missed].name, instead: LABELS[instead].name }),
    });
    button.onclick = () => { choosePair([missed, instead]); $("cases").scrollIntoView(); };
    cell(row, "act").append(button);
    return row;
  }));
}

// ---------------------------------------------------------------------------------------------------------- bad cases

let chosenPair = null;
// The largest distance of a probability from its gold value, 0 or 1.
const sureness = DATA.cases.map(([, , labels]) =>
  Math.max(...labels.map(([, state, chance]) => (state === 0 ? 0 : state === 1 ? 1 - chance : chance))));
const lowered = DATA.cases.map((entry) => entry[1].toLowerCase());

function drawCases(numbers) {
  $("case-rows").replaceChildren(...numbers.map((number) => {
    const [lineNumber, text, labels] = DATA.cases[number];
    const box = element("div", "case"), paragraph = element("p", "text", text), chips = element("div");
    const length = Array.from(text).length; // offsets count Unicode characters, as in Python; some are two of JavaScript's
    const lineOf = element("small", "", `${say("line", { line: lineNumber })} `), place = element("small", "", "", { role: "status" });
    for (const [id, state, chance, ...passage] of labels) {
      const chip = chips.appendChild(element(passage.length ? "button" : "span", `chip ${STATES[state]}`,
        `${LABELS[id].shown} ${chance.toFixed(3)}`, { title: `${say(STATES[state])}: ${LABELS[id].name}` }));
      if (!passage.length) continue;
      chip.setAttribute("aria-pressed", "false");
      chip.onclick = chip.onfocus = () => {
        for (const other of chips.querySelectorAll("button")) other.setAttribute("aria-pressed", String(other === chip));
        markPassage(paragraph, text, passage);
        place.textContent = `${LABELS[id].shown}: ${placeOf(passage, length)}`;
      };
    }
    const lines = textBox(paragraph, length), hasPassages = labels.some((label) => label.length > 3);
    (hasPassages ? chips : paragraph).prepend(lineOf);
    // What is pressed must not move, so it is above what it changes.
    box.append(...(hasPassages ? [chips, place, lines] : [lines, chips]));
    return box;
  }));
}

function markPassage(paragraph, text, [from, to]) {
  const characters = Array.from(text), piece = (...ends) => characters.slice(...ends).join("");
  paragraph.replaceChildren(piece(0, from), element("span", "passage", piece(from, to)), piece(to));
  scrollToPassage(paragraph);
}

function choosePair(pair) {
  chosenPair = pair;
  $("case-pair").hidden = !pair;
  if (pair) $("case-pair").textContent = `${say("pair", { missed: LABELS[pair[0]].shown, instead: LABELS[pair[1]].shown })} ✕`;
  showCases();
}

function showCases() {
  const wanted = $("case-find").value.trim().toLowerCase();
  const id = $("case-label").value === "" ? null : Number($("case-label").value);
  const kind = $("case-kind").value;
  const kept = [];
  const fits = (state) => (kind === "" ? state !== 0 : state === Number(kind));
  for (let i = 0; i < DATA.cases.length; i++) {
    const labels = DATA.cases[i][2];
    if (wanted && !lowered[i].includes(wanted)) continue;
    if ((id !== null || kind !== "") && !labels.some(([label, state]) => (id === null || label === id) && fits(state)))
      continue;
    if (chosenPair && !(labels.some(([label, state]) => label === chosenPair[0] && state === 1) &&
      labels.some(([label, state]) => label === chosenPair[1] && state === 2))) continue;
    kept.push(i);
  }
  if ($("case-sort").value === "sure") kept.sort((a, b) => sureness[b] - sureness[a] || a - b);
  casePager.set(kept);
}

// ------------------------------------------------------------------------------------------------- another threshold

const THRESHOLDS = [...DATA.decision.threshold]; // as they are being changed

// Rows with the label predicted, and with it right, at a threshold.
function countsAt(id, threshold) {
  const [predicted, right] = DATA.steps[id], step = Math.round(threshold * (predicted.length - 1));
  return [predicted[step], right[step]];
}

function showThreshold() {
  const label = LABELS[Number($("focus").value)], threshold = THRESHOLDS[label.id];
  const [predicted, right] = countsAt(label.id, threshold), share = (part, all) => (all ? (100 * part) / all : 0);
  $("threshold-slider").value = threshold;
  $("threshold-value").textContent = threshold.toFixed(2);
  const changed = THRESHOLDS.filter((value, id) => value !== DATA.decision.threshold[id]).length;
  $("threshold-effect").textContent = say("effect", {
    label: label.shown, threshold: threshold.toFixed(2), predicted, right, support: label.support,
    precision: fixed(share(right, predicted)), recall: fixed(share(right, label.support)),
    f1: fixed(share(2 * right, predicted + label.support)),
  }) + (changed ? say("changed", { count: changed }) : "");
}

function saveDecision() {
  const content = JSON.stringify({ ...DATA.decision, threshold: THRESHOLDS }, null, 2);
  const link = element("a", "", "", { download: "decision.json" });
  link.href = URL.createObjectURL(new Blob([`${content}\n`], { type: "application/json" }));
  link.click();
  URL.revokeObjectURL(link.href);
}

// --------------------------------------------------------------------------------------------------------------- start

// Runs for each language that is shown, on a page without listeners.
function start() {
  labelPager = pager($("label-pager"), 25, drawLabels);
  pairPager = pager($("pair-pager"), 15, drawPairs);
  casePager = pager($("case-pager"), 20, drawCases);
  labelChoice($("focus"));
  labelChoice($("case-label"), say("any"));
  $("focus").value = LABELS.reduce((best, label) => (label.support > best.support ? label : best)).id;
  for (const id of ["label-sort", "label-level"]) $(id)?.addEventListener("change", showLabels);
  $("label-find").addEventListener("input", showLabels);
  $("focus").addEventListener("change", () => { showCurves(); showThreshold(); });
  $("threshold-slider").addEventListener("input", () => {
    THRESHOLDS[Number($("focus").value)] = Number($("threshold-slider").value);
    showThreshold();
  });
  $("threshold-back").onclick = () => {
    THRESHOLDS[Number($("focus").value)] = DATA.decision.threshold[Number($("focus").value)];
    showThreshold();
  };
  $("threshold-save").onclick = saveDecision;
  for (const id of ["case-label", "case-kind", "case-sort"]) $(id).addEventListener("change", showCases);
  $("case-find").addEventListener("input", showCases);
  $("case-pair").onclick = () => choosePair(null);
  // Prints all labels, but only the bad cases of the current page.
  window.onbeforeprint = labelPager.all;
  window.onafterprint = labelPager.page;
  showLabels();
  showCurves();
  showThreshold();
  pairPager.set(DATA.pairs);
  choosePair(null);
}
