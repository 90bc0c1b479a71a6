"""The HTML page of `evaluate.py --html`: a model's report with plots and bad cases."""

import numpy as np

from evaluation_data import BINS, PAIRS, case_of, curves_of, decision_of_each, pairs_of, steps_of
from page_parts import PAGER_STYLE, page_script, pager_words
from text_box import BOX_STYLE, box_words
from text_cls.decision import Decision
from text_cls.html_page import escape, say, tiles, write_page
from text_cls.label_tree import depths
from text_cls.language import tr

EFFECT = ("label", "threshold", "precision", "recall", "f1", "predicted", "right", "support")  # of a threshold

STYLE = """
h3 { font-size: 1rem; margin: .4em 0; }
.bars td { vertical-align: middle; }
.bars .name { overflow-wrap: anywhere; }
.bars .name small { display: none; color: var(--soft); }
.bars .drawn, .bars th[colspan] { padding-left: 22px; }
.bars .drawn { width: 22%; padding-right: 0; }
.bars .drawn + td { width: 1%; }
.bars th.number { white-space: normal; }
.bars td.number { padding-left: 10px; }
.bar { display: block; min-width: 34px; height: 10px; background: var(--line); border-radius: 3px; overflow: hidden; }
.bar i { display: block; height: 100%; background: var(--blue); print-color-adjust: exact; }
.bar.count i { background: var(--soft); }
.bar.rows i { background: var(--missed); }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 330px), 1fr)); gap: 12px 32px; }
.charts svg { display: block; width: 100%; max-width: 520px; }
.charts text { font-size: 12px; fill: var(--soft); }
.charts line, .charts path { fill: none; stroke: var(--line); }
.charts .all { stroke: var(--blue); fill: var(--blue); }
.charts .one { stroke: var(--missed); fill: var(--missed); }
.charts path.all, .charts path.one { fill: none; stroke-width: 2; }
.key span { margin-right: 14px; white-space: normal; }
.key span::before { content: ""; display: inline-block; width: 12px; height: 12px; margin-right: 5px;
  border-radius: 3px; vertical-align: -1px; background: currentColor; print-color-adjust: exact; }
.key .all { color: var(--blue); }
.key .one { color: var(--missed); }
.case { padding: 10px 0; border-bottom: 1px solid var(--line); break-inside: avoid; }
.case p { margin: 0 0 4px; max-width: none; }
.case small { color: var(--soft); margin-right: 3px; }
.chip { display: inline-block; margin: 2px 6px 2px 0; padding: 0 8px; border: 1px solid; border-radius: 6px;
  font-size: .88em; max-width: 100%; overflow-wrap: anywhere; print-color-adjust: exact; }
.chip.right { color: var(--right); }
.chip.missed { color: var(--missed); border-style: dashed; }
.chip.wrong { color: var(--wrong); }
button.chip { padding: 2px 8px; }
.chip[aria-pressed=true] { background: var(--tint); font-weight: 600; outline: 1px solid; }
#threshold input[type=range] { width: 220px; padding: 0; }
.act button { white-space: nowrap; }
@media (max-width: 620px) {
  .bars .extra { display: none; }
  .bars .name small { display: block; }
  .bars .drawn { width: 15%; }
  .bars .drawn, .bars th[colspan] { padding-left: 6px; }
  .bars td, .bars th { padding-right: 4px; }
  .controls label { display: grid; grid-template-columns: 4.2em 1fr; width: 100%; }
  .controls input { min-width: 0; }
}
@media print { .act { display: none; } body { max-width: none; font-size: 11px; } }
"""


def percent(ratio):
    return f"{100 * ratio:.2f}"


def write_evaluation_page(
    path, source, rows, labels, probabilities, gold, predicted, report, passages=None, decision=None
):
    """Writes the page, whole or not at all.

    Args:
        source: what was scored, and by what model, in words.
        rows: `Rows` [rows]. labels: `Labels` [labels]. probabilities: calibrated, float array [rows, labels].
        gold, predicted: bool arrays [rows, labels]. report: dict of `classification_report`.
        passages: int array [rows, labels, 2], the window that decided each label: its first character, and the one
            after its last; None if the model reads a text at once.
        decision: the model's `Decision`; None: that of no decision.json.
    """
    depth = depths(labels.parents)
    curves, calibration, mean_error = curves_of(gold, probabilities)
    pairs, alone = pairs_of(gold, predicted, labels.parents)
    bad = np.flatnonzero((gold != predicted).any(axis=1))
    cases = [case_of(rows, i, probabilities, gold, predicted, passages) for i in bad]
    data = {
        "labels": [
            [
                name,
                int(level),
                *(round(100 * scores[key], 2) for key in ("f1", "precision", "recall")),
                scores["support"],
                scores["predicted"],
            ]
            for name, level, scores in zip(labels.names, depth, report["per_class"])
        ],
        "hierarchical": labels.hierarchical,
        "micro": [100 * report["micro"][key] for key in ("f1", "precision", "recall")],
        "curves": curves,
        "calibration": calibration,
        "pairs": pairs,
        "cases": cases,
        "steps": steps_of(gold, probabilities),
        "decision": decision_of_each(decision or Decision(), labels),
    }
    facts = {
        "source": source,
        "report": report,
        "depth": depth,
        "hierarchical": labels.hierarchical,
        "rows": len(rows),
        "bad": len(cases),
        "calibration": calibration,
        "mean_ece": mean_error,
        "pairs": len(pairs),
        "missed": int((gold & ~predicted).sum()),
        "alone": alone,
        "windows": passages is not None,
    }
    script = page_script(__file__)
    write_page(
        path, tr("Evaluation"), lambda: _body(facts), PAGER_STYLE + STYLE + BOX_STYLE, script, data, _script_words
    )


def _body(facts):
    parts = [
        f"<h1>{say('Evaluation')}</h1>",
        f'<p class="note">{escape(facts["source"])}</p>',
        tiles(_headline(facts["report"], facts["bad"], facts["calibration"])),
        _levels(facts["report"]),
        _paths(facts["report"]),
        _label_table(facts["depth"]),
        _charts(facts["mean_ece"]),
        _confused(facts),
        _bad_cases(facts),
    ]
    return "\n".join(parts)


def _option(value, text):
    return f'<option value="{value}">{escape(text)}</option>'


def _label_table(depth):
    orders = (
        ("f1", tr("lowest F1 first")),
        ("best", tr("highest F1 first")),
        ("support", tr("most rows first")),
        ("file", tr("order of the label file")),
    )
    options = "".join(_option(*order) for order in orders)
    explained = say("rows with this label predicted, right or wrong")
    return f"""
<h2 id="labels">{say("Labels")}</h2>
<div class="controls">
<label>{say("Sort")} <select id="label-sort">{options}</select></label>
{_level_choice(depth)}
<label>{say("Find")} <input id="label-find" type="search" placeholder="{say("part of a name")}"></label>
</div>
<div class="wide" tabindex="0"><table class="bars"><caption>{say("Labels")}</caption><thead><tr>
<th scope="col">{say("label")}</th><th scope="col" colspan="2">F1</th>
<th scope="col" class="number extra">{say("precision")}</th><th scope="col" class="number extra">{say("recall")}</th>
<th scope="col" colspan="2">{say("rows")}</th>
<th scope="col" class="number extra" title="{explained}">{say("predicted")}</th></tr></thead>
<tbody id="label-rows"></tbody></table></div>
<div class="pager" id="label-pager"></div>"""


def _charts(mean_ece):
    curve = say(
        "Precision and recall at all thresholds. The dots mark the current decision. AP, average precision, is the "
        "area under the curve."
    )
    calibration = say(
        "Of labels with a probability of 0.8, how many are gold? Above the dashed line the model is too unsure, below "
        "it too sure. Larger dots stand for more probabilities. ECE, the expected calibration error, is the mean "
        "distance from that line over {bins} bins of equal width. For all labels together it is small if labels are "
        "rare, because most probabilities are then close to 0, and right. The mean of the labels' own errors is "
        "{mean_ece} %.",
        bins=BINS,
        mean_ece=percent(mean_ece),
    )
    return f"""
<h2 id="curves">{say("Probabilities")}</h2>
<div class="controls"><label>{say("Label")} <select id="focus"></select></label></div>
<div class="charts">
<section><h3>{say("Precision and recall")}</h3>
<div id="curve"></div><p class="key" id="curve-key"></p>
<p class="note">{curve}</p></section>
<section><h3>{say("Calibration")}</h3>
<div id="reliability"></div><p class="key" id="reliability-key"></p>
<p class="note">{calibration}</p></section>
</div>
{_threshold_panel()}"""


def _threshold_panel():
    note = say(
        "What another threshold would change for this label, on these rows. Levels of a hierarchy and limits on the "
        "number of labels (min_k, max_k) are left out here, so the figures at the present threshold may differ from "
        "those above. analysis/threshold.py fits thresholds, and measures what they gain on rows they were not fitted "
        "to."
    )
    return f"""
<section id="threshold"><h3>{say("Another threshold")}</h3>
<div class="controls"><label>{say("Threshold of the label chosen above")}
<input id="threshold-slider" type="range" min="0" max="1" step="0.01"></label>
<output id="threshold-value" for="threshold-slider"></output>
<button id="threshold-back" type="button">{say("Back to the model's")}</button>
<button id="threshold-save" type="button">{say("Save decision.json")}</button></div>
<p id="threshold-effect" role="status"></p>
<p class="note">{note}</p></section>"""


def _confused(facts):
    note = (
        say(
            "A row counts for a pair if its prediction misses the gold label on the left and has the wrong label on "
            "the right, both of one level. With two missed labels and one wrong label, it counts for both pairs."
        )
        if facts["hierarchical"]
        else say(
            "A row counts for a pair if its prediction misses the gold label on the left and has the wrong label on "
            "the right. With two missed labels and one wrong label, it counts for both pairs."
        )
    )
    note += " " + say(
        "Of {missed} missed labels, {alone} are not replaced by a wrong label.",
        missed=facts["missed"],
        alone=facts["alone"],
    )
    note += " " + say(
        "Cost: the points of micro plus macro F1 that would be gained if these rows had the missed label instead. An "
        "error on a rare label costs more."
    )
    if facts["pairs"] == PAIRS:
        note += " " + say("Only the {count} most costly pairs are shown.", count=PAIRS)
    return f"""
<h2 id="confused">{say("Confused labels")}</h2>
<p class="note">{note}</p>
<div class="wide" tabindex="0"><table class="bars"><caption>{say("Confused labels")}</caption><thead><tr>
<th scope="col">{say("missed")}</th><th scope="col">{say("predicted instead")}</th>
<th scope="col" colspan="2">{say("cost")}</th><th scope="col" class="number">{say("rows")}</th>
<th scope="col" class="number extra" title="{say("of the rows with the missed label")}">{say("of its rows")}</th>
<td class="act"></td></tr></thead>
<tbody id="pair-rows"></tbody></table></div>
<div class="pager" id="pair-pager"></div>"""


def _bad_cases(facts):
    note = say(
        "Predicted and gold labels differ in {bad} of {rows} rows. Each label with its probability:",
        bad=facts["bad"],
        rows=facts["rows"],
    )
    passages = ""
    if facts["windows"]:
        passages = "<br>" + say(
            "Long texts are read in windows. Press a label to mark the passage that decided it: the window in which "
            "its probability is the highest."
        )
    kinds = (("", tr("missed or wrong")), ("1", tr("missed")), ("2", tr("wrong")), ("0", tr("right")))
    orders = (("file", tr("order of the file")), ("sure", tr("most confident errors first")))
    return f"""
<h2 id="cases">{say("Bad cases")}</h2>
<p class="note">{note}<br>
<span class="chip right">{say("right")}</span><span class="chip missed">{say("missed")}</span>
<span class="chip wrong">{say("wrong")}</span>{passages}</p>
<div class="controls">
<label>{say("Search")} <input id="case-find" type="search" placeholder="{say("part of a text")}"></label>
<label>{say("Label")} <select id="case-label"></select></label>
<label>{say("which is")} <select id="case-kind">{"".join(_option(*kind) for kind in kinds)}</select></label>
<label>{say("Sort")} <select id="case-sort">{"".join(_option(*order) for order in orders)}</select></label>
<button id="case-pair" hidden></button>
</div>
<div id="case-rows"></div>
<div class="pager" id="case-pager"></div>"""


def _script_words():
    """What evaluation_page.js and the scripts before it say."""
    return {
        **box_words(),
        **pager_words(),
        "any": tr("any"),
        "rates": tr("precision {precision}, recall {recall}", precision="{precision}", recall="{recall}"),
        "allLabels": tr("all labels (micro)"),
        "curve": tr("Precision against recall of all labels and of {label}", label="{label}"),
        "diagram": tr("Share of gold against probability of all labels and of {label}", label="{label}"),
        "recall": tr("recall"),
        "precision": tr("precision"),
        "probability": tr("probability"),
        "shareGold": tr("share that is gold"),
        "decided": tr(
            "{label}, as decided: precision {precision}, recall {recall}, F1 {f1}",
            **{name: f"{{{name}}}" for name in ("label", "precision", "recall", "f1")},
        ),
        "bin": tr(
            "{label}: {count} probabilities, mean {mean}, gold in {share}",
            **{name: f"{{{name}}}" for name in ("label", "count", "mean", "share")},
        ),
        "noRows": tr("{label}: no rows", label="{label}"),
        "rows": tr("{count} rows", count="{count}"),
        "row": tr("1 row"),
        "show": tr("Show"),
        "showPair": tr("Show the rows that miss {missed} and have {instead}", missed="{missed}", instead="{instead}"),
        "pair": tr("missed {missed}, wrong {instead}", missed="{missed}", instead="{instead}"),
        "line": tr("line {line}", line="{line}"),
        "right": tr("right"),
        "missed": tr("missed"),
        "wrong": tr("wrong"),
        "effect": tr(
            "{label} at {threshold}: precision {precision}, recall {recall}, F1 {f1}; predicted for {predicted} rows, "
            "right in {right} of {support}",
            **{name: f"{{{name}}}" for name in EFFECT},
        ),
        "changed": tr(" {count} thresholds differ from the model's.", count="{count}"),
    }


def _headline(report, bad, calibration):
    micro, macro = report["micro"], report["macro"]
    figures = [
        (
            percent(micro["f1"]),
            "micro F1",
            tr("The harmonic mean of micro precision and micro recall: every predicted label counts the same."),
        ),
        (
            percent(macro["f1"]),
            "macro F1",
            tr(
                "The mean of the labels' F1: every label counts the same, so rare labels weigh as much as frequent "
                "ones."
            ),
        ),
        (
            percent(micro["precision"]),
            tr("micro precision"),
            tr("Of all predicted labels, the percentage that is right."),
        ),
        (percent(micro["recall"]), tr("micro recall"), tr("Of all gold labels, the percentage that was predicted.")),
        (
            percent(report["accuracy"]),
            tr("% of rows with all labels right"),
            tr("Rows whose predicted labels are exactly the gold ones, no label more or less."),
        ),
        (bad, tr("bad cases of {rows} rows", rows=report["rows"])),
        (
            f"{calibration[0]['ece']:.2f}",
            tr("% calibration error"),
            tr("How far a probability is from the share of labels that are gold at it, on average. See below."),
        ),
    ]
    if "hierarchical" in report:
        explained = tr(
            "F1 of labels together with all their ancestors, so that a wrong label in the right branch counts in part."
        )
        figures.insert(2, (percent(report["hierarchical"]["f1"]), tr("hierarchical F1"), explained))
    return figures


def _levels(report):
    if "levels" not in report:
        return ""
    lines = []
    for level in report["levels"]:
        cells = []
        for average in ("micro", "macro"):
            f1 = percent(level[average]["f1"])
            drawn = f'<td class="drawn"><span class="bar"><i style="width:{f1}%"></i></span></td>'
            cells.append(f'{drawn}<td class="number">{f1}</td>')
        lines.append(
            f'<tr><th scope="row">{level["level"]}</th><td class="number">{level["labels"]}</td>{"".join(cells)}'
            f'<td class="number">{percent(level["accuracy"])}</td><td class="number">{level["rows"]}</td></tr>'
        )
    note = say(
        "Each label is a full path. Rows right: rows in which all labels of that level are right. A row without a "
        "label of the level, and none predicted, is right, too: where few rows have one, the figure says little, and "
        "F1 more."
    )
    return (
        f'<h2 id="levels">{say("Levels")}</h2><div class="wide" tabindex="0"><table class="bars">'
        f'<caption>{say("Levels")}</caption><thead><tr><th scope="col">{say("level")}</th>'
        f'<th scope="col" class="number">{say("labels")}</th><th scope="col" colspan="2">micro F1</th>'
        f'<th scope="col" colspan="2">macro F1</th><th scope="col" class="number">{say("rows right, %")}</th>'
        f'<th scope="col" class="number">{say("rows with such a label")}</th></tr></thead>'
        f'<tbody>{"".join(lines)}</tbody></table></div><p class="note">{note}</p>'
    )


def _paths(report):
    if "paths" not in report:
        return ""
    paths, rows = report["paths"], report["inconsistent_rows"]
    distances = sorted(paths["missed"]["distances"].keys() | paths["wrong"]["distances"].keys())
    most = max([1, *paths["missed"]["distances"].values(), *paths["wrong"]["distances"].values()])
    lines = []
    for edges in distances:
        cells = []
        for kind in ("missed", "wrong"):
            count = paths[kind]["distances"].get(edges, 0)
            drawn = f'<span class="bar rows"><i style="width:{100 * count / most:.2f}%"></i></span>'
            cells.append(f'<td class="drawn">{drawn}</td><td class="number">{count}</td>')
        lines.append(f'<tr><th scope="row">{edges}</th>{"".join(cells)}</tr>')
    table = (
        f'<div class="wide" tabindex="0"><table class="bars"><caption>{say("Complete paths")}</caption><thead><tr>'
        f'<th scope="col">{say("edges away")}</th><th scope="col" colspan="2">{say("missed paths")}</th>'
        f'<th scope="col" colspan="2">{say("wrong paths")}</th></tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )
    summary = say(
        "Of {gold} gold paths and {predicted} predicted ones, {right} match from the root to the deepest label: "
        "precision {precision}, recall {recall}, F1 {f1}.",
        gold=paths["gold"],
        predicted=paths["predicted"],
        right=paths["right"],
        **{name: percent(paths[name]) for name in ("precision", "recall", "f1")},
    )
    note = say(
        "Edges of the tree between the end of a missed path and that of the nearest predicted path, or between a "
        "wrong path and the nearest gold one: 1 is one level too early or too late, 2 is a sibling or two levels, and "
        "more is another branch. If a row has no path to compare with, it is the number of levels of the path. On "
        "average {missed:.2f} for missed ones and {wrong:.2f} for wrong ones. Rows with a label whose parent is "
        "missing: {by_thresholds} by thresholds only, {as_decided} as decided.",
        missed=paths["missed"]["mean"],
        wrong=paths["wrong"]["mean"],
        **rows,
    )
    return (
        f'<h2 id="paths">{say("Complete paths")}</h2><p class="note">{summary}</p>{table if lines else ""}'
        f'<p class="note">{note}</p>'
    )


def _level_choice(depth):
    if depth.max(initial=1) == 1:
        return ""
    options = "".join(f'<option value="{level}">{level}</option>' for level in range(1, depth.max() + 1))
    every = _option("", tr("all"))
    return f'<label>{say("Level")} <select id="label-level">{every}{options}</select></label>'
