"""Reports as single HTML files, which contain everything they show and open without a network, also on a phone."""

import html
import io
import json
import warnings

from text_cls.files import atomic_write

# The page sends no request, whatever the texts in it say: the browser allows only what is in the file itself.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; base-uri 'none'"

STYLE = """
:root { --ink: #1c2330; --soft: #5b6676; --line: #d8dee6; --paper: #fff; --tint: #f4f6f9; --blue: #2563a8;
  --right: #1a7f4b; --missed: #a35c00; --wrong: #b3261e; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1160px; padding: 16px; background: var(--paper); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", sans-serif; }
h1 { font-size: 1.5rem; margin: .3em 0; }
h2 { font-size: 1.15rem; margin: 1.8em 0 .5em; padding-bottom: .2em; border-bottom: 1px solid var(--line); }
p, .note { max-width: 78ch; }
.note { color: var(--soft); font-size: .92em; }
.tiles { display: flex; flex-wrap: wrap; gap: 10px; margin: 12px 0; }
.tile { flex: 1 1 130px; padding: 8px 12px; background: var(--tint); border: 1px solid var(--line);
  border-radius: 8px; }
.tile b { display: block; font-size: 1.45rem; line-height: 1.3; }
.tile span { color: var(--soft); font-size: .85em; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92em; }
th, td { text-align: left; padding: 4px 10px 4px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.text { overflow-wrap: anywhere; }
svg, img { max-width: 100%; height: auto; }
input, select, button { font: inherit; color: inherit; padding: 5px 9px; border: 1px solid var(--line);
  border-radius: 6px; background: var(--paper); max-width: 100%; }
:focus-visible { outline: 2px solid var(--blue); outline-offset: 1px; }
.controls { display: flex; flex-wrap: wrap; gap: 8px; align-items: center; margin: 10px 0; }
"""


def escape(text):
    """The text escaped for HTML, attributes included."""
    return html.escape(str(text), quote=True)


def write_page(path, title, body, style="", script="", data=None):
    """Writes a page, whole or not at all.

    Args:
        body: HTML; texts in it must have passed through `escape`.
        style, script: CSS in addition to the common style, and JavaScript.
        data: a value that the script finds as `DATA`; texts in it need no escaping, but the script must insert them as
            `textContent`.
    """
    if data is not None:
        # "</script>" or "<!--" in a text must not end the script element.
        values = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
        script = f"const DATA = {values};\n{script}"
    with atomic_write(path) as file:
        file.write(
            f'<!DOCTYPE html>\n<html lang="zh">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{escape(title)}</title>\n'
            f"<style>{STYLE}{style}</style>\n</head>\n<body>\n{body}\n"
        )
        file.write(f"<script>{script}</script>\n</body>\n</html>\n" if script else "</body>\n</html>\n")


def svg(figure, description):
    """A matplotlib figure as inline SVG. Its texts remain texts, so that the reader's fonts show Chinese names."""
    import matplotlib

    stream = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": description}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # in the font that matplotlib measures with
        figure.savefig(stream, format="svg", bbox_inches="tight", metadata={"Date": None})
    drawing = stream.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    return drawing.replace("<svg", f'<svg role="img" aria-label="{escape(description)}"', 1)


def tiles(figures):
    """HTML of headline figures, pairs of (figure, what it is)."""
    boxes = (f'<div class="tile"><b>{escape(figure)}</b><span>{escape(name)}</span></div>' for figure, name in figures)
    return f'<div class="tiles">{"".join(boxes)}</div>'
