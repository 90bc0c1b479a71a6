"""The HTML page of `dirty.py --html` and `sparse.py --html`: a person accepts or corrects labels, row by row.

The page is one file and sends nothing. The browser keeps the decisions, where it allows that, and saves them as files.
"""

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from text_cls.cli import logger
from text_cls.html_page import FRAME_BYTES, MOST_BYTES, size_in_page, write_page
from text_cls.language import tr
from text_cls.rows import one_line

OTHERS, LEAST = 5, 0.05  # labels shown that neither the row nor the suggestion has: how many, and from which score
DIRTY, ANNOTATE, AUGMENTED = (
    "dirty",
    "annotate",
    "augmented",
)  # rows with suspect labels, without labels, with new texts

STYLE = """
.top { display: flex; flex-wrap: wrap; gap: 4px 16px; justify-content: space-between; align-items: center; }
.visually-hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%);
  white-space: nowrap; }
button, select { cursor: pointer; }
button:disabled { color: var(--soft); cursor: default; }
kbd { padding: 0 5px; border: 1px solid var(--line); border-radius: 4px; background: var(--tint);
  font: .82em ui-monospace, Menlo, Consolas, monospace; }
.progress { display: flex; flex-wrap: wrap; gap: 4px 14px; align-items: center; margin: 10px 0; }
.track { flex: 1 1 220px; height: 12px; border: 1px solid var(--soft); border-radius: 6px; overflow: hidden; }
.track i { display: block; height: 100%; width: 0; background: var(--blue); print-color-adjust: exact; }
.desk { display: grid; grid-template-columns: minmax(0, 1fr) 320px; gap: 28px; align-items: start; }
.card { padding: 14px 16px 0; border: 1px solid var(--line); border-radius: 8px; }
.card h2 { margin: 0; border: 0; padding: 0; }
.card h3 { font-size: 1rem; margin: 1em 0 .3em; }
.place { display: flex; flex-wrap: wrap; gap: 4px 12px; align-items: baseline; }
.state { font-weight: 600; }
.state.labels { color: var(--right); }
.state.remove { color: var(--wrong); }
.state.skip { color: var(--missed); }
#text { max-height: 15em; margin: 10px 0; padding: 2px 0; overflow-y: auto; font-size: 1.14rem; white-space: pre-wrap;
  overflow-wrap: anywhere; }
#text[tabindex] { padding: 2px 10px; border: 1px solid var(--line); border-radius: 6px; }
.card caption { text-align: left; color: var(--soft); font-size: .92em; padding-bottom: 4px; }
.card td:first-child, .card th[scope=row] { font-weight: 400; overflow-wrap: anywhere; }
.add { color: var(--right); font-weight: 600; }
.drop { color: var(--wrong); font-weight: 600; }
#why { margin: 0; padding-left: 1.2em; }
#why li { overflow-wrap: anywhere; }
#acts { position: sticky; bottom: 0; z-index: 1; margin: 14px -16px 0; padding: 10px 16px; background: var(--paper);
  border-top: 1px solid var(--line); border-radius: 0 0 8px 8px; }
[hidden] { display: none !important; }
#said { min-height: 1.6em; margin: 8px 0; font-weight: 600; overflow-wrap: anywhere; }
#editor { margin: 12px 0; padding: 10px 12px; border: 1px solid var(--line); border-radius: 8px;
  background: var(--tint); }
#editor input { width: 100%; }
#chosen, #options { margin: 6px 0; padding: 0; list-style: none; }
#chosen { display: flex; flex-wrap: wrap; gap: 6px; }
#chosen button { overflow-wrap: anywhere; }
#options { max-height: 15em; overflow-y: auto; background: var(--paper); border: 1px solid var(--line);
  border-radius: 6px; }
#options li { padding: 4px 10px; overflow-wrap: anywhere; cursor: pointer; }
#options li.active { outline: 2px solid var(--blue); outline-offset: -2px; background: var(--tint); }
#options li[aria-selected=true]::before { content: "✓ "; color: var(--right); }
#queue { margin: 8px 0; padding: 0; list-style: none; }
#queue button { display: block; width: 100%; margin: 0 0 4px; padding: 4px 8px; text-align: left; }
#queue span { display: block; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
#queue small { color: var(--soft); }
#queue [aria-current] { outline: 2px solid var(--blue); outline-offset: -1px; background: var(--tint); }
.side label { display: grid; gap: 2px; margin: 6px 0; font-size: .92em; }
.side select, .side input { width: 100%; }
.pager { display: flex; gap: 8px; align-items: center; flex-wrap: wrap; }
.save { max-width: 78ch; margin: 18px 0; }
.save p { margin: 4px 0; }
.save code { overflow-wrap: anywhere; white-space: pre-line; }
.keys { width: auto; }
.keys td { padding-left: 12px; }
.card th.number { white-space: normal; }
.card th[scope=row] { min-width: 7.5em; }
.other { color: var(--soft); }
.side h2 { margin-top: 0; }
.warn { color: var(--wrong); }
@media (max-width: 900px) { .desk { grid-template-columns: minmax(0, 1fr); } }
@media (max-width: 620px) {
  .card { padding: 10px 12px 0; }
  #acts { margin: 12px -12px 0; padding: 8px; gap: 6px; }
  #acts kbd { display: none; }
  #acts button { padding: 4px 8px; font-size: .92em; }
  .card td, .card th { padding-right: 6px; }
}
@media print { #acts, .side, #editor, #export, #keys { display: none; } .desk { display: block; } }
"""

# JavaScript fills in the words: data-say names one of `words`.
BODY = """
<h1 data-say="title"></h1>
<p class="note" data-say="intro"></p>
<p class="warn" id="left-out" hidden></p>
<p class="warn" id="not-kept" hidden></p>
<p id="empty" data-say="empty" hidden></p>
<div id="work">
<div class="progress">
<div class="track" id="track" role="progressbar" aria-valuemin="0" data-name="progress"><i></i></div>
<span id="counts"></span></div>
<p id="said" role="status" aria-live="polite"></p>
<div class="desk">
<section class="card" id="card" tabindex="-1" aria-labelledby="place">
<div class="place"><h2 id="place"></h2><span id="state" class="state"></span></div>
<div id="text" dir="auto"></div>
<div id="editor" role="group" data-name="editor" hidden>
<strong id="chosen-name" data-say="chosen"></strong>
<ul id="chosen" aria-labelledby="chosen-name"></ul>
<label for="find" data-say="find_label"></label>
<input id="find" role="combobox" aria-autocomplete="list" aria-expanded="true" aria-controls="options"
  aria-describedby="find-note" autocomplete="off" spellcheck="false">
<ul id="options" role="listbox" aria-multiselectable="true" data-name="options"></ul>
<p class="note" id="find-note" data-say="find_note"></p>
<div class="controls"><button id="save-labels" data-say="save"></button>
<button id="cancel" data-say="cancel"></button></div>
</div>
<div class="wide"><table><caption id="caption"></caption><thead><tr id="heads"></tr></thead>
<tbody id="scores"></tbody></table></div>
<h3 data-say="why"></h3>
<ul id="why"></ul>
<div class="controls" id="acts" role="group" data-name="acts"></div>
</section>
<aside class="side" data-name="queue">
<h2 data-say="queue"></h2>
<label><span data-say="show"></span><select id="show"></select></label>
<label><span data-say="search"></span><input id="search" type="search"></label>
<label id="order-box"><span data-say="order"></span><select id="order"></select></label>
<p class="note" id="found"></p>
<ol id="queue"></ol>
<div class="pager"><button id="before" data-say="before"></button><button id="after" data-say="after"></button></div>
</aside>
</div>
<section id="export">
<h2 data-say="export"></h2>
<p class="note" id="export-note"></p>
<div class="save"><button id="save-rows"></button><p class="note" id="rows-note"></p>
<p><code id="rows-command"></code></p></div>
<div class="save" id="decisions-box"><button id="save-decisions"></button><p class="note" data-say="decisions_note"></p>
<p><code id="decisions-command"></code></p></div>
</section>
</div>
<section id="keys">
<h2 data-say="keys"></h2>
<table class="keys"><caption class="visually-hidden" data-say="keys"></caption><tbody id="key-rows"></tbody></table>
<p><label><input type="checkbox" id="use-keys" checked> <span data-say="use_keys"></span></label></p>
</section>
"""


class Entry(NamedTuple):
    """A row to decide on.

    line: its line in the file it is from. given, suggested: label indices, with all ancestors. scores: {label: one
    number per column of scores}. why: lists
    that begin with "missing" or "wrong", then a label and its scores for the row, for rows with it and without it; or
    with "like", then cosine, line, text and labels of a similar row.
    """

    line: int
    text: str
    given: list
    suggested: list
    scores: dict
    why: list


def shown_labels(given, suggested, *scores):
    """{label: [its scores]} of the labels worth a look, the highest score first.

    Args:
        given, suggested: label indices.
        scores: probabilities of the row, float arrays [labels]; the first one orders the labels.
    """
    best = np.argsort(-scores[0], kind="stable")
    named = {*map(int, given), *map(int, suggested)}
    others = [i for i in best if scores[0][i] >= LEAST and i not in named][:OTHERS]
    chosen = sorted([*named, *map(int, others)], key=lambda i: -scores[0][i])
    return {i: [round(float(column[i]), 2) for column in scores] for i in chosen}


def write_correction_page(path, kind, entries, labels, files, columns):
    """Writes the page, whole or not at all.

    Args:
        kind: `DIRTY`, `ANNOTATE` or `AUGMENTED`.
        entries: iterable of `Entry`, in the order in which they are shown.
        labels: `Labels` of the task.
        files: {"rows", "decisions": names of the files that the page saves, "rows_command", "decisions_command": what
            to do with them, "all": the file with all rows, "dev": of the rows that `why` is about}; `ANNOTATE` and
            `AUGMENTED` have no decisions, `DIRTY` no "dev".
        columns: names of the scores in `words`.
    Logs where the page is, and how many entries it has no space for; the page says so as well.
    """
    rows, left_out = [], 0
    space = MOST_BYTES - FRAME_BYTES - size_in_page([labels.names, labels.parents.tolist()])
    for entry in entries:
        row = [
            int(entry.line),
            one_line(entry.text),
            [int(i) for i in entry.given],
            [int(i) for i in entry.suggested],
            [[i, *scores] for i, scores in entry.scores.items()],
            entry.why,
        ]
        if (size := size_in_page(row)) <= space:
            rows.append(row)
            space -= size
        else:
            left_out += 1
    decided_on = json.dumps([kind, labels.names, [row[:3] for row in rows]], ensure_ascii=False)
    data = {
        "kind": kind,
        "key": "text-cls-corrections-" + hashlib.sha256(decided_on.encode("utf-8")).hexdigest()[:32],
        "labels": [one_line(name) for name in labels.names],
        "parents": labels.parents.tolist(),
        "rows": rows,
        "left_out": left_out,
        "files": files,
        "columns": columns,
    }
    script = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")
    write_page(path, tr("Check labels"), lambda: BODY, STYLE, script, data, words)
    if left_out:
        logger.warning("%d rows are not on the page, which would be larger than 5 MB with them", left_out)
    logger.info("Page of %d rows saved in %s; open it in a browser to decide on them", len(rows), path)


def words():
    """What correction_page.js says, in the language of now. The script fills in what is in braces."""
    parts = (_words_of_the_row, _words_of_the_editor, _words_around_it, _words_of_saving, _words_of_the_keys)
    return {name: texts for part in parts for name, texts in part().items()}


def _words_of_the_row():
    return {
        "title": tr("Check labels"),
        "intro": tr(
            "Decide on one row after the other: by keyboard, or with the buttons below the row. Nothing leaves this "
            "file until you save it."
        ),
        "place": tr("Row {number} of {count} · line {line}"),
        "caption": tr("Labels of the row, and how probable they are"),
        "caption_dirty": tr(
            "Labels of the row, and how probable they are. Out of fold: by models that have not seen the row"
        ),
        "label": tr("label"),
        "given": tr("now"),
        "suggestion": tr("suggestion"),
        "unseen": tr("out of fold"),
        "model": tr("your model"),
        "has": tr("yes"),
        "same": tr("keep"),
        "add": tr("add"),
        "drop": tr("remove"),
        "predicted": tr("predicted"),
        "no_scores": tr("The row has no label, and no label is probable."),
        "why": tr("Why it is listed"),
        "missing": tr(
            "{label} is not given, but models that have not seen the row give it {unseen}. Rows with it have {with} on "
            "average, rows without it {without}."
        ),
        "wrong": tr(
            "{label} is given, but models that have not seen the row give it {unseen}. Rows with it have {with} on "
            "average, rows without it {without}."
        ),
        "like": tr("It is similar (cosine {cosine}) to line {line} of {file}, which few rows resemble: {text}"),
        "like_labels": tr("That row has: {labels}"),
        "none": tr("no label"),
        "open": tr("open"),
        "empty": tr("There are no rows to decide on. The log says how to find some."),
        "kept": tr("labels kept"),
        "changed": tr("labels now: {labels}"),
        "removed": tr("marked for removal"),
        "skipped": tr("skipped"),
    }


def _words_of_the_editor():
    return {
        "editor": tr("Edit the labels"),
        "chosen": tr("Labels"),
        "chosen_parents": tr("Labels; their parents come with them"),
        "find_label": tr("Find a label"),
        "find_note": tr(
            "Type parts of a name. Enter adds or removes the marked label; Enter with an empty field saves. Backspace "
            "in an empty field removes the last label. Esc cancels."
        ),
        "options": tr("Labels to choose from"),
        "more_labels": tr("{count} more; type more of the name"),
        "no_match": tr("no label has this in its name"),
        "take_away": tr("{label} ✕"),
        "take_away_name": tr("remove {label}"),
        "save": tr("Save these labels"),
        "cancel": tr("Cancel"),
    }


def _words_around_it():
    return {
        "left_out": tr(
            "{count} rows are not on this page, which would be larger than 5 MB with them. They are in {file}."
        ),
        "not_kept": tr(
            "This browser does not keep your decisions if you close the page. Save them below before you do."
        ),
        "progress": tr("Rows decided on"),
        "counts": tr(
            "{done} of {count} decided: {kept} kept, {changed} changed, {removed} to remove; {skipped} skipped"
        ),
        "queue": tr("Rows"),
        "show": tr("Show"),
        "all": tr("all rows"),
        "show_open": tr("open and skipped"),
        "show_kept": tr("kept"),
        "show_changed": tr("changed"),
        "show_removed": tr("to remove"),
        "show_skipped": tr("skipped"),
        "search": tr("Search texts and labels"),
        "order": tr("Order"),
        "worst": tr("most suspect first"),
        "by_line": tr("by line"),
        "found": tr("{first} to {last} of {count}"),
        "found_none": tr("no row"),
        "queue_line": tr("line {line} · {state}"),
        "before": tr("Earlier rows"),
        "after": tr("Later rows"),
    }


def _words_of_saving():
    return {
        "export": tr("Save your work"),
        "export_note": tr("{done} of {count} rows are decided on."),
        "save_rows": tr("Corrected rows ({file})"),
        "save_labelled": tr("Labelled rows ({file})"),
        "save_decisions": tr("Decisions ({file})"),
        "rows_note_dirty": tr(
            "All rows of this page but those to remove; open and skipped rows have the labels they had. Move the file "
            "to the folder of the data set, add the other rows, and train on both:"
        ),
        "rows_note_augmented": tr(
            "All rows of this page but those to remove; open and skipped rows have the labels they had. Move the file "
            "to the folder of the data set, add it to the training rows, and train on both:"
        ),
        "rows_note_annotate": tr(
            "Only the rows that you have labelled. Move the file to the folder of the data set, add it to the training "
            "rows, and train on both:"
        ),
        "rows_note_short": tr(
            "The rows that are not on this page would be missing; apply the decisions instead, as below."
        ),
        "decisions_note": tr(
            "What you decided, by line. Move the file to the folder of the data set. This command applies it and "
            "writes a whole train file, in the order of the old one, which stays as it is:"
        ),
        "saved": tr("Saved {rows} rows as {file}, in your folder of downloads"),
        "nothing": tr("There is nothing to save: no row is decided on, or all are to be removed"),
    }


def _words_of_the_keys():
    return {
        "keys": tr("Keys"),
        "use_keys": tr("Keys without Ctrl or Alt work on this page"),
        "acts": tr("Decide on this row"),
        "keep": tr("Keep labels"),
        "take": tr("Take suggestion"),
        "take_model": tr("Take the model's"),
        "edit": tr("Edit"),
        "skip": tr("Skip"),
        "remove": tr("Remove row"),
        "undo": tr("Undo"),
        "previous": tr("Previous"),
        "next": tr("Next"),
        "to_search": tr("Search the rows"),
        "to_save": tr("Go to Save your work"),
        "said_kept": tr("Line {line}: labels kept."),
        "said_changed": tr("Line {line}: labels changed to {labels}."),
        "said_removed": tr("Line {line}: marked for removal."),
        "said_skipped": tr("Line {line}: skipped."),
        "said_undone": tr("Line {line}: undone."),
        "said_no_undo": tr("There is nothing to undo."),
        "said_no_labels": tr("This row has no labels yet: take the model's labels, or edit them."),
        "said_next": tr("Now row {number}: {text}"),
        "said_skipped_left": tr("Only skipped rows are left."),
        "said_done": tr("No open row is left in this list. Save your work below."),
        "said_label_on": tr("Added {label}."),
        "said_label_off": tr("Removed {label}."),
        "said_cancelled": tr("Not changed."),
        "said_end": tr("There is no further row in this list."),
    }
