"""The HTML page of `sent_interpret.py --html`: each text with the training rows that the model finds most similar."""

from page_parts import PAGER_STYLE, page_script, pager_words
from text_cls.html_page import FRAME_BYTES, MOST_BYTES, escape, say, size_in_page, tiles, write_page
from text_cls.label_tree import shown_path
from text_cls.language import tr

CHARACTERS = 400  # shown of a text; the text file has all of it

STYLE = """
.case { padding: 14px 0; border-bottom: 1px solid var(--line); break-inside: avoid; }
.case > p { margin: 0 0 6px; max-width: none; overflow-wrap: anywhere; }
.case small { color: var(--soft); margin-right: 6px; }
.chip { display: inline-block; margin: 2px 6px 2px 0; padding: 0 8px; border: 1px solid var(--soft); border-radius: 6px;
  font-size: .88em; max-width: 100%; overflow-wrap: anywhere; }
.chip.right { color: var(--right); border-color: currentColor; }
.chip.missed { color: var(--missed); border: 1px dashed currentColor; }
.chip.wrong { color: var(--wrong); border-color: currentColor; }
.chip.predicted { color: var(--blue); border-color: currentColor; }
.supports { margin: 8px 0 0; padding: 0; list-style: none; }
.supports li { display: grid; grid-template-columns: 4em 1fr; gap: 2px 10px; padding: 5px 0 5px 10px;
  border-left: 3px solid var(--line); }
.supports .score { font-variant-numeric: tabular-nums; color: var(--soft); }
.supports p { margin: 0; max-width: none; overflow-wrap: anywhere; }
.none { color: var(--missed); margin: 4px 0 0 13px; font-size: .92em; }
"""


def write_supports_page(path, source, cases, rows, labels, scores, nearest, unsupported):
    """Writes the page, whole or not at all.

    Args:
        source: the model and the files, in words.
        cases: of `read_cases`, all predicted. rows: `Rows` of training.
        scores, nearest: cosines and row numbers, arrays [cases, supports], of `Neighbours.search`.
        unsupported: for each case, the missed labels that no support has.
    """
    names = [*map(shown_path, labels.names)]
    shown, used, space = [], {}, MOST_BYTES - FRAME_BYTES - size_in_page(names)
    for case, cosines, numbers, lacking in zip(cases, scores, nearest, unsupported):
        new = {
            int(i): [int(rows.lines[i]), shortened(rows.texts[i]), rows.labels_of(i).tolist()]
            for i in numbers
            if int(i) not in used
        }
        supports = [[int(i), round(float(cosine), 3)] for i, cosine in zip(numbers, cosines)]
        entry = [case.line, shortened(case.text), _states(case), supports, sorted(lacking)]
        space -= size_in_page([entry, new])
        if space < 0:
            break
        used.update(new)
        shown.append(entry)
    data = {"labels": names, "rows": used, "cases": shown}
    facts = {
        "source": source,
        "cases": len(cases),
        "shown": len(shown),
        "unsupported": sum(map(bool, unsupported)),
        "missed": sum(bool(set(case.gold or ()) - set(case.predicted)) for case in cases),
        "first": float(scores[:, 0].mean()),
        "training": len(rows),
    }
    title = tr("Training rows behind predictions")
    write_page(path, title, lambda: _body(facts), PAGER_STYLE + STYLE, page_script(__file__), data, _script_words)


def shortened(text):
    """The text, or its beginning."""
    return text if len(text) <= CHARACTERS else text[:CHARACTERS] + "…"


def _states(case):
    """[[label, "right", "missed", "wrong", or "predicted" if the gold labels are unknown], ...]."""
    gold, predicted = set(case.gold or ()), set(case.predicted)
    if case.gold is None:
        return [[i, "predicted"] for i in sorted(predicted)]
    return [
        [i, "right" if i in gold and i in predicted else "missed" if i in gold else "wrong"]
        for i in sorted(gold | predicted)
    ]


def _script_words():
    return {
        **pager_words(),
        **{state: tr(state) for state in ("right", "missed", "wrong", "predicted")},
        "line": tr("line {line}", line="{line}"),
        "count": tr("{shown} of {all} texts", shown="{shown}", all="{all}"),
        "unsupported": tr("In no support: {labels}. Train has no similar row with it.", labels="{labels}"),
        "noLabel": tr("no label"),
        "comma": tr(", "),
    }


def _body(facts):
    figures = [
        (facts["cases"], tr("texts")),
        (facts["training"], tr("training rows")),
        (f"{facts['first']:.3f}", tr("similarity of the first support, on average")),
        (facts["missed"], tr("texts with a missed label")),
        (facts["unsupported"], tr("of these, a missed label is in no support")),
    ]
    note = say(
        "Supports are the training rows whose vectors are closest to the text's in the model; the figure is the "
        "cosine, 1 at most. Rows with wrong labels among them explain a wrong prediction. Where a missed label is in "
        "no support, add rows like the text."
    )
    if facts["shown"] < facts["cases"]:
        note += " " + say("The page shows the first {shown} texts; the text file has all.", shown=facts["shown"])
    kinds = [("", tr("all")), ("unsupported", tr("missed, and in no support"))]
    kinds += [(state, tr(state)) for state in ("missed", "wrong", "right")]
    options = "".join(f'<option value="{value}">{escape(text)}</option>' for value, text in kinds)
    return f"""<h1>{say("Training rows behind predictions")}</h1>
<p class="note">{escape(facts["source"])}</p>
{tiles(figures)}
<p class="note">{note}</p>
<p class="key"><span class="chip right">{say("right")}</span><span class="chip missed">{say("missed")}</span>
<span class="chip wrong">{say("wrong")}</span></p>
<div class="controls">
<label>{say("Search")} <input id="find" type="search" placeholder="{say("part of a text")}"></label>
<label>{say("Label")} <select id="label"></select></label>
<label>{say("which is")} <select id="kind">{options}</select></label>
<span id="count" class="note" role="status"></span></div>
<div id="cases"></div>
<div id="pager" class="pager"></div>
<noscript><p>{say("This page needs JavaScript; the text file has the same rows.")}</p></noscript>"""
