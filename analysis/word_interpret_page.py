"""The HTML page of `word_interpret.py`: each text with its words coloured by their attributions."""

from collections import Counter

from page_parts import PAGER_STYLE, page_script, pager_words
from text_box import BOX_STYLE, box_words
from text_cls.html_page import FRAME_BYTES, MOST_BYTES, escape, say, size_in_page, tiles, write_page
from text_cls.language import N_, tr

STATUSES = ("wrong", "missed", "right", "predicted")
MEANING = {
    "wrong": N_("wrong: predicted, not in the gold labels"),
    "missed": N_("missed: in the gold labels, not predicted"),
    "right": N_("right: predicted and in the gold labels"),
    "predicted": N_("predicted: gold labels unknown"),
}
SHORT = {"wrong": N_("wrong"), "missed": N_("missed"), "right": N_("right"), "predicted": N_("predicted")}

STYLE = """
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; align-items: center; color: var(--soft); font-size: .92em; }
.legend mark { padding: 1px 7px; color: var(--ink); }
mark { color: inherit; background: none; border-radius: 3px; padding: 1px 0; print-color-adjust: exact; }
mark.against { border-bottom: 2px dotted var(--missed); border-radius: 3px 3px 0 0; }
.unread { color: var(--soft); font-style: italic; }
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
"""


def write_interpretation_page(path, rows, method, tolerance):
    """rows: from `word_interpret.interpret`. method: its full name. tolerance: share of the logit difference."""
    data, space = [], MOST_BYTES - FRAME_BYTES
    for row in rows:
        entry = _row_data(row, tolerance)
        space -= size_in_page(entry)
        if space < 0:
            break
        data.append(entry)
    script = page_script(__file__)
    title = tr("Words for and against labels")
    write_page(
        path,
        title,
        lambda: _body(rows, len(data), method, tolerance),
        PAGER_STYLE + STYLE + BOX_STYLE,
        script,
        data,
        _script_words,
    )


def _script_words():
    """What word_interpret_page.js and the scripts before it say."""
    return {
        **box_words(),
        **pager_words(),
        **{status: tr(name) for status, name in SHORT.items()},
        "line": tr("line {line}", line="{line}"),
        "noLabel": tr("No label to explain."),
        "count": tr("{shown} of {all} texts", shown="{shown}", all="{all}"),
        "logit": tr(
            "Probability {probability}, logit {logit}. Strongest: {words}.",
            **{name: f"{{{name}}}" for name in ("probability", "logit", "words")},
        ),
        "without": tr(" Without words, the logit is {base}.", base="{base}"),
        "passage": tr(" Passage: {place}.", place="{place}"),
        "rough": tr(" Inexact: the strengths of the words do not add up to the difference of the logits."),
    }


def _notes(rows, shown, entries):
    cut, notes = sum(row["unread"] is not None for row in rows), ""
    if cut:
        notes += " " + say(
            "{count} texts exceed the maximum length: the grey parts are not read, and get no colour.", count=cut
        )
    if shown < len(rows):
        notes += " " + say("The page shows the first {shown} texts; the .jsonl file has all.", shown=shown)
    if any("passage" in entry for entry in entries):
        notes += " " + say(
            "Long texts are read in windows: a label is explained in the passage that decided it, the window in which "
            "its logit is the highest. The logits below are those of that passage, with and without its words."
        )
    return notes


def _body(rows, shown, method, tolerance):
    entries = [entry for row in rows for entry in row["labels"]]
    counts, names = Counter(entry["status"] for entry in entries), Counter(entry["label"] for entry in entries)
    figures = [(len(rows), tr("texts")), (len(entries), tr("labels explained"))]
    figures += [(counts[status], tr(MEANING[status])) for status in STATUSES if counts[status]]
    checked = [entry["error"] <= tolerance for entry in entries if entry["error"] is not None]
    if checked:
        within = tr("sums within {share:.0%} of the logit difference", share=tolerance)
        figures.append((tr("{part} of {all}", part=sum(checked), all=len(checked)), within))
    label_options = "".join(
        f'<option value="{escape(name)}">{escape(name)} ({count})</option>' for name, count in sorted(names.items())
    )
    status_options = "".join(
        f'<option value="{status}">{say(SHORT[status])} ({counts[status]})</option>'
        for status in STATUSES
        if counts[status]
    )
    meaning = (
        say("A word's strength is what it adds to the label's logit, compared with a text without words;")
        if checked
        else say("A word's strength is its weight in a linear fit of the label's logit to texts with words omitted;")
    )
    return f"""<h1>{say("Words for and against labels")}</h1>
{tiles(figures)}
<p class="note">{say("By {method}.", method=tr(method))} {meaning}
{say("colours are relative to the strongest word for the label in its text.")}{_notes(rows, shown, entries)}</p>
<p class="legend"><span><mark id="for">{say("supports the label")}</mark></span>
<span><mark id="against" class="against">{say("opposes it")}</mark></span>
<span>{say("stronger colour: stronger word; hover over a word for its value")}</span></p>
<div class="controls">
<label>{say("Label")} <select id="label"><option value="">{say("all")} ({len(entries)})</option>{label_options}</select>
</label>
<label>{say("Outcome")} <select id="status"><option value="">{say("all")}</option>{status_options}</select></label>
<span id="count" class="note" role="status"></span></div>
<div id="rows"></div>
<div id="pager" class="pager"></div>
<noscript><p>{say("This page needs JavaScript; the .jsonl file has the same figures.")}</p></noscript>"""


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
