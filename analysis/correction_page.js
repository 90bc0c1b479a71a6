// Rows to decide on, one at a time. What a text says is inserted as text only.
const { kind: KIND, labels: LABELS, parents: PARENTS, rows: ROWS, files: FILES, columns: COLUMNS } = DATA;
const PAGE = 20, OPTIONS = 60, LONGEST_SAID = 160;
const DONE = { kept: 1, changed: 1, removed: 1 };
const ACTS = { a: "keep", t: "take", e: "edit", s: "skip", x: "remove", u: "undo", k: "previous", j: "next",
  "/": "to_search", d: "to_save" };
const BUTTONS = ["a", "t", "e", "s", "x", "u", "k", "j"];
const at = (id) => document.getElementById(id);
const fill = (id, text) => { at(id).textContent = text; };
function make(tag, text, name) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (name) element.className = name;
  return element;
}

// ---------------------------------------------------------------------------------------------------------- labels

function pathTo(label) {
  const path = [];
  for (; label >= 0; label = PARENTS[label]) path.push(label);
  return path;
}
const closed = (labels) => [...new Set(labels.flatMap(pathTo))].sort((one, other) => one - other);
function deepest(labels) {
  const above = new Set(labels.flatMap((label) => pathTo(label).slice(1)));
  return labels.filter((label) => !above.has(label));
}
const same = (some, others) => some.length === others.length && some.every((label, i) => label === others[i]);
const names = (labels) => labels.map((label) => LABELS[label]).join(",");
const shown = (labels) => deepest(labels).map((label) => LABELS[label]).join(", ") || say("none");

// ------------------------------------------------------------------------------------------------------- decisions

// {row: {kind: "labels", labels} or {kind: "remove"} or {kind: "skip"}}; before: what undo restores, the last one last.
let decisions = {}, before = [], current = 0, savedAll = true;

function stateOf(i) {
  const decision = decisions[i];
  if (!decision) return "open";
  if (decision.kind !== "labels") return decision.kind === "remove" ? "removed" : "skipped";
  return KIND !== "annotate" && same(decision.labels, ROWS[i][2]) ? "kept" : "changed";
}
const labelsOf = (i) => (decisions[i]?.kind === "labels" ? decisions[i].labels : ROWS[i][2]);
const stateWord = (i) => say(stateOf(i) === "open" ? "open" : `show_${stateOf(i)}`);
const stateText = (i) => say(stateOf(i), { labels: shown(labelsOf(i)) });

// Another tab, an older page or a person may have written it.
function valid(decision) {
  return decision && (decision.kind === "remove" || decision.kind === "skip" || (decision.kind === "labels" &&
    Array.isArray(decision.labels) && decision.labels.every((label) => Number.isInteger(label) && LABELS[label] !== undefined)));
}
function restore() {
  try {
    const kept = JSON.parse(localStorage.getItem(DATA.key)) ?? {};
    decisions = {};
    for (const [i, decision] of Object.entries(kept.decisions ?? {})) {
      if (Object.hasOwn(ROWS, i) && Array.isArray(ROWS[i]) && valid(decision))
        decisions[i] = decision.kind === "labels" ? { kind: "labels", labels: closed(decision.labels) } : decision;
    }
    if (Number.isInteger(kept.current) && ROWS[kept.current]) current = kept.current;
    before = [];
  } catch { /* nothing is kept here, as the page says after `keep` */ }
}
function keep(name = DATA.key, value = JSON.stringify({ decisions, current })) {
  try {
    localStorage.setItem(name, value);
    at("not-kept").hidden = true;
  } catch {
    at("not-kept").hidden = false;
  }
}

function decide(i, decision) {
  before.push([i, decisions[i]]);
  if (decision) decisions[i] = decision; else delete decisions[i];
  savedAll = false;
  const said = say(`said_${stateOf(i)}`, { line: ROWS[i][0], labels: shown(labelsOf(i)) });
  const list = found();
  const open = following(i, list, "open"), next = open ?? following(i, list, "skipped");
  if (next !== undefined && next !== i) {
    go(next, said, open === undefined ? say("said_skipped_left") : "");
  } else {
    go(i, said, next === i ? say("said_skipped_left") : say("said_done"), true);
  }
}
// The row of this state that follows row i in the list, after its end from its beginning.
function following(i, list, state) {
  const place = list.indexOf(i);
  return [...list.slice(place + 1), ...list.slice(0, place + 1)].find((row) => stateOf(row) === state);
}

function go(i, said, more = "", stays = false) {
  current = i;
  closeEditor();
  keep();
  showAll();
  if (at("card").getBoundingClientRect().top < 0) at("card").scrollIntoView();
  const text = ROWS[i][1].length > LONGEST_SAID ? `${ROWS[i][1].slice(0, LONGEST_SAID)}…` : ROWS[i][1];
  const now = stays ? "" : say("said_next", { number: i + 1, text });
  announce([said, more].filter(Boolean).join(" "), now);
}
// What a key did is shown; the row that follows is on the page, so only a screen reader gets it again.
function announce(said, now = "") {
  at("said").replaceChildren(said, make("span", now && ` ${now}`, "visually-hidden"));
}

// ------------------------------------------------------------------------------------------------------------- row

function cell(text, name) {
  return make("td", text, name);
}
function showScores([, , given, suggested, scores]) {
  fill("caption", say(KIND === "dirty" ? "caption_dirty" : "caption"));
  const heads = [say("label")];
  if (KIND !== "annotate") heads.push(say("given"));
  heads.push(say(KIND === "dirty" ? "suggestion" : "predicted"));
  at("heads").replaceChildren(...[...heads, ...COLUMNS.map((name) => say(name))].map((name, i) => {
    const head = make("th", name, i >= heads.length ? "number" : "");
    head.scope = "col";
    return head;
  }));
  at("scores").replaceChildren(...scores.map(([label, ...values]) => {
    const now = given.includes(label), then = suggested.includes(label);
    const line = make("tr", undefined, now || then ? "" : "other"), head = make("th");
    head.scope = "row";
    head.append(make("bdi", LABELS[label]));
    line.append(head);
    if (KIND !== "annotate") line.append(cell(now ? say("has") : ""));
    const change = now === then ? "" : then ? "add" : "drop";
    if (KIND === "dirty") line.append(cell(change ? say(change) : now ? say("same") : "", change));
    else line.append(cell(then ? say("has") : ""));
    line.append(...values.map((value) => cell(value.toFixed(2), "number")));
    return line;
  }));
  if (!scores.length) {
    const line = make("tr"), only = cell(say("no_scores"));
    only.colSpan = heads.length + COLUMNS.length;
    line.append(only);
    at("scores").append(line);
  }
}
function showWhy(reasons) {
  at("why").replaceChildren(...reasons.flatMap(([why, ...values]) => {
    if (why === "like") {
      const [cosine, line, text, labels] = values;
      return [make("li", say("like", { cosine: cosine.toFixed(2), line, text, file: FILES.dev })),
        make("li", say("like_labels", { labels: shown(labels) }))];
    }
    const [label, ...numbers] = values, [unseen, having, without] = numbers.map((number) => number.toFixed(2));
    return [make("li", say(why, { label: LABELS[label], unseen, with: having, without }))];
  }));
}
function showRow() {
  const row = ROWS[current], state = decisions[current]?.kind ?? "";
  fill("place", say("place", { number: current + 1, count: ROWS.length, line: row[0] }));
  fill("state", stateText(current));
  at("state").className = `state ${state}`;
  fill("text", row[1]);
  at("text").scrollTop = 0;
  if (at("text").scrollHeight > at("text").clientHeight) at("text").tabIndex = 0;
  else at("text").removeAttribute("tabindex");
  showScores(row);
  showWhy(row[5]);
}

// ---------------------------------------------------------------------------------------------------------- editor

let chosen = [], active = 0; // labels that were named, of which the deepest are shown; the place of the marked option

function openEditor() {
  const start = decisions[current]?.kind === "labels" ? decisions[current].labels : ROWS[current][KIND === "annotate" ? 3 : 2];
  chosen = deepest(start);
  at("editor").hidden = false;
  at("acts").hidden = true;
  at("find").value = "";
  active = -1;
  showEditor();
  at("find").focus();
  at("editor").scrollIntoView({ block: "nearest" });
}
function closeEditor() {
  if (at("editor").hidden) return;
  const inside = at("editor").contains(document.activeElement);
  at("editor").hidden = true;
  at("acts").hidden = false;
  if (inside) at("card").focus({ preventScroll: true });
}
function toggle(label) {
  const off = closed(chosen).includes(label);
  // A label takes those below it along; the parents that only it needed go with it.
  chosen = off ? chosen.filter((other) => !pathTo(other).includes(label)) : [...chosen, label];
  announce(say(off ? "said_label_off" : "said_label_on", { label: LABELS[label] }));
  showEditor();
}
const plain = (text) => text.normalize("NFKC").toLowerCase();
const PLAIN = LABELS.map(plain);
// Labels whose name has all words of the field; without any, those with scores come first.
function matches() {
  const pieces = plain(at("find").value).split(/\s+/u).filter(Boolean);
  const probable = ROWS[current][4].map(([label]) => label);
  const all = [...new Set([...probable, ...LABELS.keys()])];
  const first = (label) => (PLAIN[label].slice(PLAIN[label].lastIndexOf("##") + 1).replace(/^#/u, "").startsWith(pieces[0]) ? 0 : 1);
  const having = all.filter((label) => pieces.every((piece) => PLAIN[label].includes(piece)));
  return pieces.length ? having.sort((one, other) => first(one) - first(other)) : having;
}
function showEditor() {
  const labels = closed(chosen), options = matches(), typed = at("find").value.trim() !== "";
  fill("chosen-name", say(PARENTS.some((parent) => parent >= 0) ? "chosen_parents" : "chosen"));
  at("chosen").replaceChildren(...deepest(labels).map((label) => {
    const item = make("li"), button = make("button", say("take_away", { label: LABELS[label] }));
    button.setAttribute("aria-label", say("take_away_name", { label: LABELS[label] }));
    button.onclick = () => { toggle(label); at("find").focus(); };
    item.append(button);
    return item;
  }));
  if (!labels.length) at("chosen").append(make("li", say("none"), "note"));
  active = Math.min(Math.max(active, typed ? 0 : -1), Math.min(options.length, OPTIONS) - 1);
  at("options").replaceChildren(...options.slice(0, OPTIONS).map((label, i) => {
    const item = make("li", LABELS[label], i === active ? "active" : "");
    item.id = `option-${i}`;
    item.setAttribute("role", "option");
    item.setAttribute("aria-selected", String(labels.includes(label)));
    item.onclick = () => { toggle(label); at("find").focus(); };
    return item;
  }));
  const rest = options.length - OPTIONS;
  if (rest > 0 || !options.length) {
    const note = make("li", options.length ? say("more_labels", { count: rest }) : say("no_match"), "note");
    note.setAttribute("role", "option");
    note.setAttribute("aria-disabled", "true");
    note.setAttribute("aria-selected", "false");
    at("options").append(note);
  }
  if (active >= 0) at("find").setAttribute("aria-activedescendant", `option-${active}`);
  else at("find").removeAttribute("aria-activedescendant");
  at(`option-${active}`)?.scrollIntoView({ block: "nearest" });
}
function saveLabels() {
  decide(current, { kind: "labels", labels: closed(chosen) });
}
function cancel() {
  closeEditor();
  announce(say("said_cancelled"));
}
function editorKey(event) {
  if (event.isComposing || event.keyCode === 229) return; // Enter ends the input of Chinese
  const field = at("find"), options = matches().slice(0, OPTIONS);
  if (event.key === "Escape" && field.value) {
    field.value = "";
    active = -1;
    showEditor();
  } else if (event.key === "Escape") {
    cancel();
  } else if (event.target !== field) {
    return;
  } else if (event.key === "Enter" && (event.ctrlKey || event.metaKey || (active < 0 && !field.value.trim()))) {
    saveLabels();
  } else if (event.key === "Enter") {
    if (options[active] === undefined) return;
    toggle(options[active]);
    field.value = "";
    active = -1;
    showEditor();
  } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    active = Math.max(-1, Math.min(options.length - 1, active + (event.key === "ArrowDown" ? 1 : -1)));
    showEditor();
  } else if (event.key === "Backspace" && !field.value && chosen.length) {
    toggle(deepest(closed(chosen)).at(-1));
  } else {
    return;
  }
  event.preventDefault();
}

// ----------------------------------------------------------------------------------------------------------- queue

// The rows that the choices beside the row leave, in their order.
function found() {
  const show = at("show").value, pieces = plain(at("search").value).split(/\s+/u).filter(Boolean);
  const wanted = (i) => {
    const state = stateOf(i);
    // The current row stays, so that a decision about it does not lose its place.
    if (show && state !== show && !(show === "open" && state === "skipped") && i !== current) return false;
    if (!pieces.length) return true;
    const words = plain(`${ROWS[i][1]} ${names(ROWS[i][2])} ${names(ROWS[i][3])} ${names(labelsOf(i))}`);
    return pieces.every((piece) => words.includes(piece));
  };
  const list = [...ROWS.keys()].filter(wanted);
  return at("order").value === "line" ? list.sort((one, other) => ROWS[one][0] - ROWS[other][0]) : list;
}
let firstShown = 0;
function showQueue(follow = true) {
  const list = found(), place = list.indexOf(current);
  if (follow) firstShown = Math.floor(Math.max(0, place) / PAGE) * PAGE;
  firstShown = Math.max(0, Math.min(firstShown, list.length - 1));
  const part = list.slice(firstShown, firstShown + PAGE);
  const range = { first: firstShown + 1, last: firstShown + part.length, count: list.length };
  fill("found", part.length ? say("found", range) : say("found_none"));
  at("before").disabled = firstShown === 0;
  at("after").disabled = firstShown + PAGE >= list.length;
  at("queue").replaceChildren(...part.map((i) => {
    const item = make("li"), button = make("button"), text = make("span", ROWS[i][1]);
    text.dir = "auto";
    button.append(text, make("small", say("queue_line", { line: ROWS[i][0], state: stateWord(i) })));
    if (i === current) button.setAttribute("aria-current", "true");
    button.onclick = () => { go(i, ""); at("card").focus(); };
    item.append(button);
    return item;
  }));
}
function turn(pages) {
  firstShown += pages * PAGE;
  showQueue(false);
}
function step(by) {
  const list = found(), next = list[list.indexOf(current) + by];
  if (next === undefined) announce(say("said_end")); else go(next, "");
}

// ---------------------------------------------------------------------------------------------------------- export

function counts() {
  const numbers = { kept: 0, changed: 0, removed: 0, skipped: 0, open: 0 };
  for (const i of ROWS.keys()) numbers[stateOf(i)] += 1;
  return { ...numbers, done: numbers.kept + numbers.changed + numbers.removed, count: ROWS.length };
}
const line = (...columns) => `${columns.join("\t")}\n`;
const lineOf = (text, labels) => (labels.length ? line(text, names(labels)) : line(text));
function rowsToSave() {
  const wanted = (i) => (KIND === "annotate" ? decisions[i]?.kind === "labels" : stateOf(i) !== "removed");
  return [...ROWS.keys()].filter(wanted).map((i) => lineOf(ROWS[i][1], labelsOf(i)));
}
function decisionsToSave() {
  const words = { kept: "keep", changed: "change", removed: "remove" };
  const lines = [...ROWS.keys()].filter((i) => DONE[stateOf(i)]).map((i) => {
    const [number, text, given] = ROWS[i];
    return line(number, words[stateOf(i)], names(given), names(labelsOf(i)), text);
  });
  return lines.length ? [line("line", "decision", "given", "labels", "text"), ...lines] : [];
}
function download(file, lines, rows) {
  if (!counts().done || !rows) return announce(say("nothing"));
  const link = make("a"), address = URL.createObjectURL(new Blob(lines, { type: "text/plain;charset=utf-8" }));
  link.href = address;
  link.download = file;
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
  savedAll = true;
  return announce(say("saved", { rows, file }));
}

// ----------------------------------------------------------------------------------------------------------- words

function showButtons() {
  const focus = document.activeElement?.dataset?.key;
  at("acts").replaceChildren(...BUTTONS.filter((key) => !(key === "a" && KIND === "annotate")).map((key) => {
    const button = make("button", `${actName(key)} `);
    button.append(make("kbd", key.toUpperCase()));
    button.dataset.key = key;
    button.setAttribute("aria-keyshortcuts", key);
    button.onclick = () => act(key);
    return button;
  }));
  at("acts").querySelector(`[data-key="${focus}"]`)?.focus();
  at("key-rows").replaceChildren(...Object.keys(ACTS).filter((key) => !(key === "a" && KIND === "annotate")).map((key) => {
    const row = make("tr"), head = make("th");
    head.scope = "row";
    head.append(make("kbd", key.toUpperCase()));
    row.append(head, cell(actName(key)));
    return row;
  }));
}
const actName = (key) => say(key === "t" && KIND !== "dirty" ? "take_model" : ACTS[key]);
function options(id, pairs) {
  const value = at(id).value;
  at(id).replaceChildren(...pairs.map(([name, word]) => {
    const option = make("option", say(word));
    option.value = name;
    return option;
  }));
  at(id).value = pairs.some(([name]) => name === value) ? value : pairs[0][0];
}
function showWords() {
  document.title = say("title");
  for (const element of document.querySelectorAll("[data-say]")) element.textContent = say(element.dataset.say);
  for (const element of document.querySelectorAll("[data-name]")) element.setAttribute("aria-label", say(element.dataset.name));
  options("show", [["", "all"], ["open", "show_open"], ["kept", "show_kept"], ["changed", "show_changed"],
    ["removed", "show_removed"], ["skipped", "show_skipped"]]);
  options("order", [["worst", "worst"], ["line", "by_line"]]);
  fill("left-out", say("left_out", { count: DATA.left_out, file: FILES.all }));
  fill("not-kept", say("not_kept"));
  fill("save-rows", say(KIND === "annotate" ? "save_labelled" : "save_rows", { file: FILES.rows }));
  fill("rows-note", say(DATA.left_out && KIND === "dirty" ? "rows_note_short" : `rows_note_${KIND}`));
  fill("rows-command", FILES.rows_command);
  at("rows-command").hidden = DATA.left_out > 0 && KIND === "dirty";
  if (FILES.decisions) {
    fill("save-decisions", say("save_decisions", { file: FILES.decisions }));
    fill("decisions-command", FILES.decisions_command);
  }
  showButtons();
}
function showAll() {
  const numbers = counts();
  fill("counts", say("counts", numbers));
  fill("export-note", say("export_note", numbers));
  at("track").setAttribute("aria-valuemax", numbers.count);
  at("track").setAttribute("aria-valuenow", numbers.done);
  at("track").setAttribute("aria-valuetext", say("counts", numbers));
  at("track").firstElementChild.style.width = `${(100 * numbers.done) / Math.max(1, numbers.count)}%`;
  showRow();
  showQueue();
}

// ------------------------------------------------------------------------------------------------------------ keys

function act(key) {
  const row = ROWS[current];
  if (key === "a" && KIND === "annotate") announce(say("said_no_labels"));
  else if (key === "a") decide(current, { kind: "labels", labels: row[2] });
  else if (key === "t") decide(current, { kind: "labels", labels: row[3] });
  else if (key === "e") openEditor();
  else if (key === "s") decide(current, { kind: "skip" });
  else if (key === "x") decide(current, { kind: "remove" });
  else if (key === "k" || key === "j") step(key === "j" ? 1 : -1);
  else if (key === "/") at("search").focus();
  else if (key === "d") at("save-rows").focus();
  else if (key === "u") {
    const last = before.pop();
    if (!last) return announce(say("said_no_undo"));
    const [i, decision] = last;
    if (decision) decisions[i] = decision; else delete decisions[i];
    savedAll = false;
    go(i, say("said_undone", { line: ROWS[i][0] }));
  }
}
document.addEventListener("keydown", (event) => {
  const key = event.key.toLowerCase();
  if (!ROWS.length || !at("use-keys").checked || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  if (event.target.closest("input:not([type=checkbox]), select, textarea") || !at("editor").hidden || !(key in ACTS)) return;
  event.preventDefault();
  act(key);
});
addEventListener("beforeunload", (event) => { if (!savedAll && !at("not-kept").hidden) event.preventDefault(); });
addEventListener("storage", (event) => { if (event.key === DATA.key) { restore(); showWords(); showAll(); } });
if (ROWS.length) restore();

// Runs for each language that is shown, on a page without listeners.
function start() {
  at("editor").addEventListener("keydown", editorKey);
  at("find").addEventListener("input", () => { active = 0; showEditor(); });
  at("save-labels").onclick = saveLabels;
  at("cancel").onclick = cancel;
  for (const id of ["show", "search", "order"]) at(id).addEventListener("input", () => showQueue());
  at("search").addEventListener("keydown", (event) => {
    const list = found();
    if (event.isComposing || !["Enter", "Escape"].includes(event.key)) return;
    if (event.key === "Enter" && list.length) go(list.includes(current) ? current : list[0], "");
    at("card").focus();
  });
  at("before").onclick = () => turn(-1);
  at("after").onclick = () => turn(1);
  at("save-rows").onclick = () => { const lines = rowsToSave(); download(FILES.rows, lines, lines.length); };
  at("save-decisions").onclick = () => { const lines = decisionsToSave(); download(FILES.decisions, lines, lines.length - 1); };

  at("left-out").hidden = !DATA.left_out;
  at("decisions-box").hidden = !FILES.decisions;
  at("order-box").hidden = KIND !== "dirty";
  showWords();
  at("empty").hidden = ROWS.length > 0;
  at("work").hidden = at("keys").hidden = !ROWS.length;
  if (ROWS.length) {
    keep(`${DATA.key}-test`, ""); // whether it can; what it keeps is not touched before a decision
    showAll();
  }
}
