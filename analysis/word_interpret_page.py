"""The HTML page of `word_interpret.py`: each text with its words coloured by their attributions."""

from collections import Counter

from text_box import BOX_STYLE, page_script
from text_cls.html_page import escape, tiles, write_page

STATUSES = ("wrong", "missed", "right", "predicted")
MEANING = {
    "wrong": "predicted, not in the gold labels",
    "missed": "in the gold labels, not predicted",
    "right": "predicted and in the gold labels",
    "predicted": "predicted, gold labels unknown",
}

STYLE = """
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; align-items: center; color: var(--soft); font-size: .92em; }
.legend mark { padding: 1px 7px; color: var(--ink); }
mark { color: inherit; background: none; border-radius: 3px; padding: 1px 0; print-color-adjust: exact; }
mark.against { border-bottom: 2px dotted #8a4b00; border-radius: 3px 3px 0 0; }
.unread { color: #8a94a3; }
.case { padding: 14px 0; border-bottom: 1px solid var(--line); break-inside: avoid; }
.case p { margin: 8px 0; max-width: none; line-height: 2; font-size: 1.05em; overflow-wrap: anywhere; }
.case small { color: var(--soft); display: block; overflow-wrap: anywhere; }
.chips { display: flex; flex-wrap: wrap; gap: 6px; align-items: center; }
.chip { cursor: pointer; padding: 1px 9px; font-size: .9em; text-align: left; overflow-wrap: anywhere;
  border-width: 2px; }
.chip.right { color: var(--right); }
.chip.missed { color: var(--missed); border-style: dashed; }
.chip.wrong { color: var(--wrong); }
.chip.predicted { color: var(--blue); }
.chip[aria-pressed=true] { border-color: currentColor; background: var(--tint); font-weight: 600; }
.pager { display: flex; gap: 8px; align-items: center; margin: 12px 0; }
.controls label { display: inline-flex; gap: 6px; align-items: center; max-width: 100%; }
.controls select { min-width: 0; }
button { cursor: pointer; }
button:disabled { opacity: .45; cursor: default; }
"""


def write_interpretation_page(path, rows, method, tolerance):
    """rows: from `word_interpret.interpret`. method: its full name. tolerance: share of the logit difference."""
    data, body = [_row_data(row, tolerance) for row in rows], _body(rows, method, tolerance)
    write_page(path, "Words for and against labels", body, STYLE + BOX_STYLE, page_script(__file__), data)


def _body(rows, method, tolerance):
    entries = [entry for row in rows for entry in row["labels"]]
    counts, names = Counter(entry["status"] for entry in entries), Counter(entry["label"] for entry in entries)
    figures = [(len(rows), "texts"), (len(entries), "labels explained")]
    figures += [(counts[status], f"{status}: {MEANING[status]}") for status in STATUSES if counts[status]]
    checked = [entry["error"] <= tolerance for entry in entries if entry["error"] is not None]
    if checked:
        within = f"sums within {100 * tolerance:.0f}% of the logit difference"
        figures.append((f"{sum(checked)} of {len(checked)}", within))
    label_options = "".join(
        f'<option value="{escape(name)}">{escape(name)} ({count})</option>' for name, count in sorted(names.items())
    )
    status_options = "".join(
        f'<option value="{status}">{status} ({counts[status]})</option>' for status in STATUSES if counts[status]
    )
    cut = sum(row["unread"] is not None for row in rows)
    notes = f" {cut} texts exceed the maximum length: the grey parts are not read, and get no colour." if cut else ""
    if any("passage" in entry for entry in entries):
        notes += (
            " Long texts are read in windows: a label is explained in the passage that decided it, the window in which "
            "its logit is the highest. The logits below are those of that passage, with and without its words."
        )
    meaning = (
        "what it adds to the label's logit, compared with a text without words"
        if checked
        else "its weight in a linear fit of the label's logit to texts with words omitted"
    )
    return f"""<h1>Words for and against labels</h1>
{tiles(figures)}
<p class="note">By {escape(method)}. A word's strength is {meaning}; colours are relative to the strongest word for the
label in its text.{notes}</p>
<p class="legend"><span><mark id="for">supports</mark> the label</span>
<span><mark id="against" class="against">opposes</mark> it</span>
<span>stronger colour: stronger word; hover over a word for its value</span></p>
<div class="controls">
<label>Label <select id="label"><option value="">all ({len(entries)})</option>{label_options}</select></label>
<label>Outcome <select id="status"><option value="">all</option>{status_options}</select></label>
<span id="count" class="note" role="status"></span></div>
<div id="rows"></div>
<div class="pager"><button id="back">Back</button><span id="page" class="note"></span>
<button id="next">Next</button></div>
<noscript><p>This page needs JavaScript; the .jsonl file has the same figures.</p></noscript>"""


def _row_data(row, tolerance):
    return {
        "line": row["line"],
        "text": row["text"],
        "unread": row["unread"],
        "spans": row["spans"],
        "labels": [
            {
                "label": entry["label"],
                "status": entry["status"],
                "probability": round(entry["probability"], 4),
                "logit": round(entry["logit"], 3),
                "base": None if entry["base_logit"] is None else round(entry["base_logit"], 3),
                "rough": entry["error"] is not None and entry["error"] > tolerance,
                "passage": entry.get("passage"),
                "first": first,
                "words": [float(f"{value:.3g}") for value in entry["attributions"][first:end]],
                "key": [[word, float(f"{value:.3g}")] for word, value in entry["key_words"]],
            }
            for entry in row["labels"]
            for first, end in [_words_shown(row, entry)]
        ],
    }


def _words_shown(row, entry):
    """Numbers of the first word that may have an attribution, and of the one after the last."""
    start, end = entry.get("passage", (0, len(row["text"])))
    if row["unread"] and row["unread"][1] >= end:
        end = min(end, row["unread"][0])
    first = sum(stop <= start for _, stop in row["spans"])
    return first, sum(begin < end for begin, _ in row["spans"])
