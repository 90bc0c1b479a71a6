const PER_PAGE = 20;
const COLOURS = { for: "37, 99, 168", against: "214, 121, 20" };
const byId = (id) => document.getElementById(id);
let shown = [], page = 0;

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function tint(node, value, strongest) {
  const side = value < 0 ? "against" : "for";
  const alpha = strongest ? 0.62 * Math.abs(value) / strongest : 0;
  node.style.backgroundColor = `rgba(${COLOURS[side]}, ${alpha.toFixed(3)})`;
  if (value < 0 && alpha > 0.06) node.className = "against";
}

// Offsets count Unicode characters, as in Python; JavaScript strings count some of them twice.
function drawText(row, entry) {
  const line = element("p"), characters = Array.from(row.text);
  const strongest = entry ? Math.max(0, ...entry.words.map(Math.abs)) : 0;
  const piece = (start, end) => characters.slice(start, end).join("");
  let end = 0;
  row.spans.forEach(([start, stop], i) => {
    if (start >= row.read) return;
    line.append(piece(end, start));
    const word = element("mark", piece(start, stop));
    if (entry) {
      tint(word, entry.words[i], strongest);
      word.title = signed(entry.words[i]);
    }
    line.append(word);
    end = stop;
  });
  if (end < characters.length) line.append(element("span", piece(end), row.read < characters.length ? "unread" : ""));
  return line;
}

const signed = (value) => (value > 0 ? "+" : value < 0 ? "\u2212" : "") + Math.abs(value);

function describe(entry) {
  const words = entry.key.map(([word, value]) => `${word} ${signed(value)}`).join(", ");
  const from = entry.base === null ? "" : ` (${signed(entry.base)} without words)`;
  const rough = entry.rough ? " Inexact: the strengths of the words do not add up to that difference." : "";
  return `Probability ${entry.probability}, logit ${signed(entry.logit)}${from}. Strongest: ${words || "none"}.${rough}`;
}

function drawRow(row) {
  const box = element("section", undefined, "case"), chips = element("div", undefined, "chips");
  const body = element("div");
  const choose = (entry) => {
    for (const chip of chips.children) chip.setAttribute("aria-pressed", String(chip.entry === entry));
    body.replaceChildren(drawText(row, entry), element("small", entry ? describe(entry) : "No label to explain."));
  };
  for (const entry of row.labels) {
    const chip = element("button", `${entry.status}: ${entry.label}`, `chip ${entry.status}`);
    chip.entry = entry;
    chip.addEventListener("click", () => choose(entry));
    chips.append(chip);
  }
  box.append(element("small", `line ${row.line}`), chips, body);
  const open = row.labels.filter(wanted);
  choose(open.find((entry) => entry.status === "wrong") || open.find((entry) => entry.status === "missed") || open[0]);
  return box;
}

const wanted = (entry) =>
  (!byId("label").value || entry.label === byId("label").value) &&
  (!byId("status").value || entry.status === byId("status").value);

function draw() {
  byId("rows").replaceChildren(...shown.slice(page * PER_PAGE, (page + 1) * PER_PAGE).map(drawRow));
  const pages = Math.max(1, Math.ceil(shown.length / PER_PAGE));
  byId("page").textContent = `${page + 1} of ${pages}`;
  byId("back").disabled = page === 0;
  byId("next").disabled = page + 1 >= pages;
}

function filter() {
  const open = byId("label").value || byId("status").value;
  shown = DATA.filter((row) => !open || row.labels.some(wanted));
  page = 0;
  byId("count").textContent = `${shown.length} of ${DATA.length} texts`;
  draw();
}

function turn(pages) {
  page += pages;
  draw();
  byId("rows").scrollIntoView();
}

tint(byId("for"), 1, 1);
tint(byId("against"), -1, 1);
for (const id of ["label", "status"]) byId(id).addEventListener("change", filter);
byId("back").addEventListener("click", () => turn(-1));
byId("next").addEventListener("click", () => turn(1));
filter();
