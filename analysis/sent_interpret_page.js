// The page of sent_interpret.py --html. DATA comes from sent_interpret_page.py.
const PER_PAGE = 20;
const byId = (id) => document.getElementById(id);
let casePager; // of the language shown

function chip(label, state) {
  return element("span", `chip ${state}`, DATA.labels[label], state ? { title: say(state) } : {});
}

function drawSupport([row, score], missed) {
  const [line, text, labels] = DATA.rows[row], item = element("li"), body = element("div");
  const paragraph = element("p", "text", text);
  paragraph.prepend(element("small", "", say("line", { line })));
  body.append(paragraph, ...labels.map((label) => chip(label, missed.has(label) ? "missed" : "")));
  if (!labels.length) body.append(element("small", "", say("noLabel")));
  item.append(element("span", "score", score.toFixed(3)), body);
  return item;
}

function drawCase([line, text, states, supports, unsupported]) {
  const box = element("section", "case"), paragraph = element("p", "text", text), list = element("ol", "supports");
  const missed = new Set(states.filter(([, state]) => state === "missed").map(([label]) => label));
  paragraph.prepend(element("small", "", say("line", { line })));
  list.append(...supports.map((support) => drawSupport(support, missed)));
  box.append(paragraph, ...states.map(([label, state]) => chip(label, state)), list);
  const names = unsupported.map((label) => DATA.labels[label]).join(say("comma"));
  if (names) box.append(element("p", "none", say("unsupported", { labels: names })));
  return box;
}

function wanted([, text, states, , unsupported]) {
  const part = byId("find").value.trim().toLowerCase(), label = byId("label").value, kind = byId("kind").value;
  if (part && !text.toLowerCase().includes(part)) return false;
  const ofLabel = states.filter(([id]) => !label || id === Number(label));
  if (kind === "unsupported") return unsupported.some((id) => !label || id === Number(label));
  return kind ? ofLabel.some(([, state]) => state === kind) : !label || ofLabel.length > 0;
}

function filter() {
  const shown = DATA.cases.filter(wanted);
  byId("count").textContent = say("count", { shown: shown.length, all: DATA.cases.length });
  casePager.set(shown);
}

// Runs for each language that is shown, on a page without listeners.
function start() {
  const used = new Set(DATA.cases.flatMap(([, , states]) => states.map(([label]) => label)));
  byId("label").append(element("option", "", byId("kind").options[0].text, { value: "" }));
  for (const label of [...used].sort((one, other) => one - other))
    byId("label").append(element("option", "", DATA.labels[label], { value: label }));
  casePager = pager(byId("pager"), PER_PAGE, (cases) => byId("cases").replaceChildren(...cases.map(drawCase)));
  byId("find").oninput = byId("label").onchange = byId("kind").onchange = filter;
  filter();
}
