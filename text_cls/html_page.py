"""Reports as single HTML files, which contain everything they show and open without a network, also on a phone.

A page has both languages, and a button that switches. Its HTML is made once in each: `write_page` calls `body` in the
block of `language.speaking`, so that `tr` and `say` translate. The body of the language of the run is in the document,
and works without JavaScript; the other waits in a <template>. A page with a script of its own defines `start()` in it,
which runs after each switch, and finds the texts of `words` by `say(name, {value})`.
"""

import html
import io
import json
import warnings
from collections.abc import Callable, Iterable, Sequence

from text_cls.files import atomic_write
from text_cls.language import CHINESE, ENGLISH, LANGUAGES, again, language, speaking, tr

# The page sends no request, whatever the texts in it say: the browser allows only what is in the file itself.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; base-uri 'none'"
NAMES = {ENGLISH: "English", CHINESE: "中文"}
SEARCHED_FROM = 12  # rows of a table that get a search field
MOST_BYTES = 5_000_000  # of a page
FRAME_BYTES = 100_000  # of these for all but what grows with the rows

DARK = """--ink: #e6e9ef; --soft: #aab4c2; --line: #465061; --paper: #14181e; --tint: #1f2630; --blue: #8ab8f2;
  --right: #6fd19b; --missed: #e8ab62; --wrong: #f59a91; --shadow: rgba(0, 0, 0, .55); color-scheme: dark;"""
COLOURS = f"""
:root {{ --ink: #1c2330; --soft: #566070; --line: #d0d7e0; --paper: #fff; --tint: #f4f6f9; --blue: #2563a8;
  --right: #177245; --missed: #935200; --wrong: #b3261e; --shadow: rgba(28, 35, 48, .22); color-scheme: light; }}
@media screen and (prefers-color-scheme: dark) {{ :root:not([data-theme=light]) {{ {DARK} }} }}
@media screen {{ :root[data-theme=dark] {{ {DARK} }} }}
"""

STYLE = f"""{COLOURS}
* {{ box-sizing: border-box; }}
body {{ margin: 0 auto; max-width: 1160px; padding: 16px; background: var(--paper); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", sans-serif; }}
h1 {{ font-size: 1.5rem; margin: .3em 0; overflow-wrap: anywhere; }}
h2 {{ font-size: 1.15rem; margin: 1.8em 0 .5em; padding-bottom: .2em; border-bottom: 1px solid var(--line); }}
p, .note {{ max-width: 78ch; }}
.note {{ color: var(--soft); font-size: .92em; }}
a {{ color: var(--blue); }}
.tiles {{ display: flex; flex-wrap: wrap; gap: 10px; margin: 12px 0; }}
.tile {{ flex: 1 1 115px; padding: 8px 12px; background: var(--tint); border: 1px solid var(--line);
  border-radius: 8px; }}
.tile b {{ display: block; font-size: 1.45rem; line-height: 1.3; }}
.tile span {{ color: var(--soft); font-size: .85em; }}
.tile summary {{ color: var(--soft); font-size: .85em; cursor: pointer; }}
.tile p {{ margin: 4px 0 0; font-size: .85em; }}
.wide {{ overflow-x: auto; background:
  linear-gradient(90deg, var(--paper) 40%, transparent) left / 36px 100% no-repeat local,
  linear-gradient(270deg, var(--paper) 40%, transparent) right / 36px 100% no-repeat local,
  linear-gradient(90deg, var(--shadow), transparent) left / 12px 100% no-repeat scroll,
  linear-gradient(270deg, var(--shadow), transparent) right / 12px 100% no-repeat scroll; }}
table {{ border-collapse: collapse; width: 100%; font-size: .92em; }}
caption {{ position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }}
th {{ min-width: 2.6em; }}
th, td {{ text-align: left; padding: 4px 10px 4px 0; border-bottom: 1px solid var(--line); vertical-align: top; }}
td.number, th.number {{ text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }}
th button.sort {{ all: unset; cursor: pointer; font-weight: 600; }}
th button.sort::after {{ content: " ↕"; color: var(--soft); font-weight: 400; }}
th[aria-sort=ascending] button.sort::after {{ content: " ↑"; }}
th[aria-sort=descending] button.sort::after {{ content: " ↓"; }}
.text {{ overflow-wrap: anywhere; }}
svg, img {{ max-width: 100%; height: auto; }}
input, select, button {{ font: inherit; color: inherit; padding: 5px 9px; border: 1px solid var(--line);
  border-radius: 6px; background: var(--paper); max-width: 100%; }}
button {{ cursor: pointer; }}
:focus-visible, th button.sort:focus-visible {{ outline: 2px solid var(--blue); outline-offset: 1px; }}
.controls {{ display: flex; flex-wrap: wrap; gap: 8px; align-items: center; margin: 10px 0; }}
.skip {{ position: absolute; left: -9999px; }}
.skip:focus {{ position: static; }}
.page-bar {{ display: flex; gap: 8px; justify-content: flex-end; }}
@media screen and (prefers-color-scheme: dark) {{
  :root:not([data-theme=light]) svg.figure {{ filter: invert(1) hue-rotate(180deg); }} }}
@media screen {{ :root[data-theme=dark] svg.figure {{ filter: invert(1) hue-rotate(180deg); }} }}
@media print {{ .page-bar, .skip, .table-search {{ display: none; }} body {{ max-width: none; }}
  .wide, .tall {{ overflow: visible; max-height: none; background: none; }} }}
"""

# What every page can do: the other language, the other colours, tables that sort and search.
SCRIPT = r"""
let spoken = document.documentElement.lang;
const say = (name, values = {}) => SAYS[spoken][name].replace(/\{(\w+)\}/g, (whole, key) => values[key] ?? whole);

{
const kept = (name) => { try { return localStorage.getItem(name); } catch { return null; } };
const keep = (name, value) => { try { localStorage.setItem(name, value); } catch { /* the browser stores nothing */ } };

const main = document.querySelector("main");
const pages = { [spoken]: main.innerHTML };
const other = document.querySelector("template");
pages[other.lang] = other.innerHTML;

function speak(code) {
  const place = window.scrollY;
  spoken = code;
  document.documentElement.lang = code;
  document.title = say("title");
  main.innerHTML = pages[code];
  document.querySelector(".skip").textContent = say("skip");
  showTheme();
  const button = document.getElementById("language"), next = Object.keys(pages).find((each) => each !== code);
  button.textContent = NAMES[next];
  button.lang = next;
  open();
  window.scrollTo(0, place);
}

function open() {
  document.querySelectorAll("table.sortable").forEach(makeSortable);
  document.querySelectorAll("table.searched").forEach(makeSearched);
  if (typeof start === "function") start();
}

function showTheme() {
  const button = document.getElementById("theme"), dark = isDark();
  button.textContent = say(dark ? "light" : "dark");
}
const isDark = () => (document.documentElement.dataset.theme ??
  (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";

// Numbers as numbers: 1,234 and 5.6% and +0.3; other cells by the rules of the language.
function valueOf(row, column) {
  const text = row.cells[column]?.textContent.trim() ?? "", number = parseFloat(text.replace(/,/g, ""));
  return [Number.isNaN(number) ? -Infinity : number, text];
}

function makeSortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    if (!head.textContent.trim() || head.colSpan > 1) return;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sort";
    button.append(...head.childNodes);
    head.append(button);
    button.onclick = () => {
      const up = head.getAttribute("aria-sort") === "descending";
      heads.forEach((each) => each.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const number = head.classList.contains("number"), body = table.tBodies[0];
      const rows = [...body.rows].map((row) => [valueOf(row, column), row]);
      rows.sort(([a], [b]) => (number ? a[0] - b[0] : a[1].localeCompare(b[1], spoken)) * (up ? 1 : -1));
      body.append(...rows.map(([, row]) => row));
    };
  });
}

function makeSearched(table) {
  const label = document.createElement("label"), input = document.createElement("input");
  const count = document.createElement("span");
  label.className = "table-search controls";
  input.type = "search";
  count.className = "note";
  count.setAttribute("role", "status");
  label.append(say("find"), input, count);
  (table.closest(".wide") ?? table).before(label);
  input.oninput = () => {
    const wanted = input.value.trim().toLowerCase();
    let shown = 0;
    for (const row of table.tBodies[0].rows) {
      row.hidden = !row.textContent.toLowerCase().includes(wanted);
      shown += !row.hidden;
    }
    count.textContent = wanted ? say("found", { shown, all: table.tBodies[0].rows.length }) : "";
  };
}

document.getElementById("language").onclick = () => {
  const code = Object.keys(pages).find((each) => each !== spoken);
  keep("language", code);
  speak(code);
};
document.getElementById("theme").onclick = () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  keep("theme", document.documentElement.dataset.theme);
  showTheme();
};
if (["dark", "light"].includes(kept("theme"))) document.documentElement.dataset.theme = kept("theme");
document.querySelector(".page-bar").hidden = false;
speak(kept("language") in pages ? kept("language") : spoken);
}
"""


def escape(text):
    """The text in the language of now, escaped for HTML, attributes included."""
    return html.escape(str(again(text)), quote=True)


def say(message, /, **values):
    """A message in the language of now, escaped, as are its values."""
    return escape(tr(message, **values))


def write_page(
    path,
    title: str,
    body: Callable[[], str],
    style: str = "",
    script: str = "",
    data=None,
    words: Callable[[], dict[str, str]] = dict,
):
    """Writes a page, whole or not at all.

    Args:
        title: a message of `tr`.
        body: makes the HTML, in the language of now; texts in it must have passed through `escape` or `say`.
        style, script: CSS in addition to the common style, and JavaScript, which defines `start()`.
        data: a value that the script finds as `DATA`; texts in it need no escaping, but the script must insert them as
            `textContent`.
        words: makes the texts that the script says, in the language of now.
    """
    first, bodies, says = language(), {}, {}
    for code, name in LANGUAGES.items():
        with speaking(code):
            bodies[code] = body()
            says[name] = {**_words(), **words(), "title": str(again(title))}
    (second,) = LANGUAGES.keys() - {first}
    names = {LANGUAGES[code]: name for code, name in NAMES.items()}
    values = [f"const SAYS = {_json(says)}, NAMES = {_json(names)};"]
    if data is not None:
        values.append(f"const DATA = {_json(data)};")
    with atomic_write(path) as file:
        file.write(
            f'<!DOCTYPE html>\n<html lang="{LANGUAGES[first]}">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{escape(title)}</title>\n<style>{STYLE}{style}</style>\n</head>\n<body>\n"
            f'<a class="skip" href="#report">{escape(says[LANGUAGES[first]]["skip"])}</a>\n'
            '<header class="page-bar" hidden><button id="theme" type="button"></button>'
            '<button id="language" type="button"></button></header>\n'
            f'<main id="report" tabindex="-1">\n{bodies[first]}\n</main>\n'
            f'<template lang="{LANGUAGES[second]}">\n{bodies[second]}\n</template>\n'
        )
        file.write('<script>"use strict";\n' + "\n".join([*values, script, SCRIPT]) + "</script>\n</body>\n</html>\n")


def _words():
    return {
        "skip": tr("Skip to the report"),
        "light": tr("Light"),
        "dark": tr("Dark"),
        "find": tr("Find"),
        "found": tr("{shown} of {all} rows", shown="{shown}", all="{all}"),
    }


def size_in_page(value):
    """Bytes of a value in the data of a page, and of a comma."""
    return len(_json(value).encode("utf-8")) + 1


def _json(value):
    """JSON to be put into a script element, which "</script>" or "<!--" in a text must not end."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def svg(figure, description):
    """A matplotlib figure as inline SVG. Its texts remain texts, so that the reader's fonts show Chinese names."""
    import matplotlib

    stream = io.StringIO()
    figure.patch.set_alpha(0)
    for axes in figure.axes:
        axes.patch.set_alpha(0)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": description}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # in the font that matplotlib measures with
        figure.savefig(stream, format="svg", bbox_inches="tight", metadata={"Date": None})
    drawing = stream.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    return drawing.replace("<svg", f'<svg class="figure" role="img" aria-label="{escape(description)}"', 1)


def tiles(figures: Iterable[tuple]):
    """HTML of headline figures: (figure, what it is), or (figure, what it is, a sentence that explains it)."""
    boxes = []
    for figure, name, *explained in figures:
        if explained:
            more = f"<details><summary>{escape(name)}</summary><p>{escape(explained[0])}</p></details>"
        else:
            more = f"<span>{escape(name)}</span>"
        boxes.append(f'<div class="tile"><b>{escape(figure)}</b>{more}</div>')
    return f'<div class="tiles">{"".join(boxes)}</div>'


def section(title, *parts, note=""):
    """HTML of a heading, what explains it, and what follows. title, note: messages; parts: HTML."""
    explained = f'<p class="note">{escape(note)}</p>' if note else ""
    return f"<h2>{escape(title)}</h2>{explained}{''.join(parts)}"


def table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]], style: str = "", of_rows=()):
    """HTML of a table that sorts by its columns and, if it is long, has a search field.

    Args:
        caption: what it shows, for screen readers.
        head: names of the columns; ending in '#' for numbers, in '=' for bars.
        rows: lists of cells, as HTML.
        style: classes of the box; "tall" scrolls, "narrow" does not fill the page.
        of_rows: classes of the rows, if they have any.
    """
    kinds = {"#": ' class="number"', "=": ' class="bars"'}
    kinds = [kinds.get(name[-1:], "") for name in head]
    top = "".join(f'<th scope="col"{kind}>{escape(name.rstrip("#="))}</th>' for name, kind in zip(head, kinds))
    classes = [f' class="{name}"' if name else "" for name in of_rows] or [""] * len(rows)
    cells = ("".join(f"<td{kind}>{cell}</td>" for cell, kind in zip(row, kinds)) for row in rows)
    body = "".join(f"<tr{name}>{row}</tr>" for name, row in zip(classes, cells))
    searched = " searched" if len(rows) >= SEARCHED_FROM else ""
    inner = f"<caption>{escape(caption)}</caption><thead><tr>{top}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="wide {style}" tabindex="0"><table class="sortable{searched}">{inner}</table></div>'
