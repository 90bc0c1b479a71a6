const PER_PAGE = 20;
const COLOURS = { for: "37, 99, 168", against: "214, 121, 20" };
const byId = (id) => document.getElementById(id);
let rowPager; // of the language shown

function tint(node, value, strongest) {
  const side = value < 0 ? "against" : "for";
  const alpha = strongest ? 0.62 * Math.abs(value) / strongest : 0;
  node.style.backgroundColor = `rgba(${COLOURS[side]}, ${alpha.toFixed(3)})`;
  if (value < 0 && alpha > 0.06) node.className = "against";
}

// Offsets count Unicode characters, as in Python; JavaScript strings count some of them twice.
function drawText(line, row, entry) {
  const characters = Array.from(row.text), words = entry ? entry.words : [];
  const [from, to] = (entry && entry.passage) || [0, characters.length], unread = row.unread || [Infinity, Infinity];
  const strongest = Math.max(0, ...words.map(Math.abs));
  const piece = (start, end) => characters.slice(start, end).join("");
  let target = line, end = from;
  const plain = (start, stop) => {
    const [out, back] = unread.map((place) => Math.min(Math.max(place, start), stop));
    target.append(piece(start, out));
    if (out < back) target.append(element("span", "unread", piece(out, back)));
    target.append(piece(back, stop));
  };
  line.replaceChildren();
  plain(0, from);
  if (entry && entry.passage) line.append(target = element("span", "passage"));
  words.forEach((value, i) => {
    const [start, stop] = row.spans[entry.first + i].map((place) => Math.min(Math.max(place, from), to));
    if (start >= unread[0] && start < unread[1]) return;
    plain(end, start);
    const word = element("mark", "", piece(start, stop));
    tint(word, value, strongest);
    word.title = signed(value);
    target.append(word);
    end = stop;
  });
  plain(end, to);
  target = line;
  plain(to, characters.length);
  scrollToPassage(line);
}

const signed = (value) => (value > 0 ? "+" : value < 0 ? "\u2212" : "") + Math.abs(value);

function describe(entry, length) {
  const words = entry.key.map(([word, value]) => `${word} ${signed(value)}`).join(", ");
  return say("logit", { probability: entry.probability, logit: signed(entry.logit), words: words || say("none") }) +
    (entry.base === null ? "" : say("without", { base: signed(entry.base) })) +
    (entry.passage ? say("passage", { place: placeOf(entry.passage, length) }) : "") +
    (entry.rough ? say("rough") : "");
}

function drawRow(row) {
  const box = element("section", "case"), chips = element("div", "chips");
  const line = element("p"), note = element("small"), length = Array.from(row.text).length;
  const choose = (entry) => {
    for (const chip of chips.children) chip.setAttribute("aria-pressed", String(chip.entry === entry));
    drawText(line, row, entry);
    note.textContent = entry ? describe(entry, length) : say("noLabel");
  };
  for (const entry of row.labels) {
    const chip = element("button", `chip ${entry.status}`, `${say(entry.status)}: ${entry.label}`);
    chip.entry = entry;
    chip.addEventListener("click", () => choose(entry));
    chips.append(chip);
  }
  box.append(element("small", "", say("line", { line: row.line })), chips, textBox(line, length), note);
  const open = row.labels.filter(wanted);
  choose(open.find((entry) => entry.status === "wrong") || open.find((entry) => entry.status === "missed") || open[0]);
  return box;
}

const wanted = (entry) =>
  (!byId("label").value || entry.label === byId("label").value) &&
  (!byId("status").value || entry.status === byId("status").value);

function draw(rows) {
  byId("rows").replaceChildren(...rows.map(drawRow));
  for (const line of document.querySelectorAll(".box p")) scrollToPassage(line); // only now does it have a height
}

function filter() {
  const open = byId("label").value || byId("status").value;
  const shown = DATA.filter((row) => !open || row.labels.some(wanted));
  byId("count").textContent = say("count", { shown: shown.length, all: DATA.length });
  rowPager.set(shown);
}

// Runs for each language that is shown, on a page without listeners.
function start() {
  tint(byId("for"), 1, 1);
  tint(byId("against"), -1, 1);
  for (const id of ["label", "status"]) byId(id).addEventListener("change", filter);
  rowPager = pager(byId("pager"), PER_PAGE, draw);
  filter();
}
