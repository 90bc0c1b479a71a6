// What several pages are made of. Texts are set as textContent, never as HTML.
function element(tag, className, text, attributes = {}) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

// Shows `size` entries at a time. Returns {set: replaces the entries, all: shows all, page: shows the first page}.
function pager(host, size, draw) {
  const back = element("button", "", say("back")), place = element("span", "", "", { "aria-live": "polite" });
  const next = element("button", "", say("next"));
  let entries = [], start = 0;
  host.append(back, place, next);
  function show(first, count = size) {
    start = first;
    draw(entries.slice(start, start + count));
    const end = Math.min(start + count, entries.length);
    place.textContent = entries.length ? say("place", { from: start + 1, to: end, all: entries.length }) : say("none");
    back.disabled = start === 0;
    next.disabled = end === entries.length;
    back.hidden = next.hidden = entries.length <= size;
  }
  function turn(first) {
    show(first);
    const list = host.previousElementSibling;
    if (list.getBoundingClientRect().top < 0) list.scrollIntoView();
  }
  back.onclick = () => turn(start - size);
  next.onclick = () => turn(start + size);
  return { set: (list) => { entries = list; show(0); }, all: () => show(0, entries.length), page: () => show(0) };
}
