"""The HTML page of `evaluate.py --html`: a model's report with plots and bad cases."""

import numpy as np

from metric import average_precision, calibration_error, confused_pairs, precision_recall, reliability
from text_box import BOX_STYLE, page_script
from text_cls.html_page import escape, tiles, write_page
from text_cls.label_tree import depths

POINTS = 60  # per curve, which is drawn 300 pixels wide
PAIRS = 200  # of confused labels, most frequent first
BINS = 10

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
.pager { display: flex; gap: 8px; align-items: center; margin: 10px 0; }
button { cursor: pointer; }
button:disabled { opacity: .45; cursor: default; }
.controls label { display: inline-flex; gap: 6px; align-items: center; max-width: 100%; }
.controls select { min-width: 0; flex: 0 1 auto; }
@media (max-width: 620px) {
  .bars .extra { display: none; }
  .bars .name small { display: block; }
  .bars .drawn { width: 15%; }
  .bars .drawn, .bars th[colspan] { padding-left: 6px; }
  .bars td, .bars th { padding-right: 4px; }
  .controls label { display: grid; grid-template-columns: 4.2em 1fr; width: 100%; }
  .controls input { min-width: 0; }
}
@media print { .controls, .pager, .act { display: none; } body { max-width: none; font-size: 11px; } }
"""

BODY = """
<h1>Evaluation</h1>
<p class="note">{source}</p>
{tiles}
{levels}
{paths}
<h2 id="labels">Labels</h2>
<div class="controls">
<label>Sort <select id="label-sort"><option value="f1">lowest F1 first</option>
<option value="best">highest F1 first</option><option value="support">most rows first</option>
<option value="file">order of the label file</option></select></label>
{level_choice}
<label>Find <input id="label-find" type="search" placeholder="part of a name"></label>
</div>
<div class="wide"><table class="bars"><thead><tr><th>label</th><th colspan="2">F1</th>
<th class="number extra">precision</th><th class="number extra">recall</th><th colspan="2">rows</th>
<th class="number extra" title="rows with this label predicted, right or wrong">predicted</th></tr></thead>
<tbody id="label-rows"></tbody></table></div>
<div class="pager" id="label-pager"></div>

<h2 id="curves">Probabilities</h2>
<div class="controls"><label>Label <select id="focus"></select></label></div>
<div class="charts">
<section><h3>Precision and recall</h3>
<div id="curve"></div><p class="key" id="curve-key"></p>
<p class="note">Precision and recall at all thresholds. The dots mark the current decision. AP, average precision, is
the area under the curve.</p></section>
<section><h3>Calibration</h3>
<div id="reliability"></div><p class="key" id="reliability-key"></p>
<p class="note">Of labels with a probability of 0.8, how many are gold? Above the dashed line the model is too unsure,
below it too sure. Larger dots stand for more probabilities. ECE, the expected calibration error, is the mean distance
from that line over {bins} bins of equal width. For all labels together it is small if labels are rare, because most
probabilities are then close to 0, and right. The mean of the labels' own errors is {mean_ece} %.</p></section>
</div>

<h2 id="confused">Confused labels</h2>
<p class="note">A row counts for a pair if its prediction misses the gold label on the left and has the wrong label on
the right{level}. With two missed labels and one wrong label, it counts for both pairs. {alone}{most}</p>
<div class="wide"><table class="bars"><thead><tr><th>missed</th><th>predicted instead</th><th colspan="2">rows</th>
<th class="number extra" title="of the rows with the missed label">of its rows</th><th class="act"></th></tr></thead>
<tbody id="pair-rows"></tbody></table></div>
<div class="pager" id="pair-pager"></div>

<h2 id="cases">Bad cases</h2>
<p class="note">Predicted and gold labels differ in {bad} of {rows} rows. Each label with its probability:<br>
<span class="chip right">right</span><span class="chip missed">missed</span><span class="chip wrong">wrong</span>
{passages}</p>
<div class="controls">
<label>Search <input id="case-find" type="search" placeholder="part of a text"></label>
<label>Label <select id="case-label"></select></label>
<label>which is <select id="case-kind"><option value="">missed or wrong</option><option value="1">missed</option>
<option value="2">wrong</option><option value="0">right</option></select></label>
<label>Sort <select id="case-sort"><option value="file">order of the file</option>
<option value="sure">most confident errors first</option></select></label>
<button id="case-pair" hidden></button>
</div>
<div id="case-rows"></div>
<div class="pager" id="case-pager"></div>
"""

PASSAGES = """<br>Long texts are read in windows. Press a label to mark the passage that decided it: the window in which
its probability is the highest."""


def percent(ratio):
    return f"{100 * ratio:.2f}"


def write_evaluation_page(path, source, rows, labels, probabilities, gold, predicted, report, passages=None):
    """Writes the page, whole or not at all.

    Args:
        source: what was scored, and by what model, in words.
        rows: `Rows` [rows]. labels: `Labels` [labels]. probabilities: calibrated, float array [rows, labels].
        gold, predicted: bool arrays [rows, labels]. report: dict of `classification_report`.
        passages: int array [rows, labels, 2], the window that decided each label: its first character, and the one
            after its last; None if the model reads a text at once.
    """
    depth = depths(labels.parents)
    curves, calibration, mean_error = _curves(gold, probabilities)
    pairs, alone = _pairs(gold, predicted, labels.parents)
    bad = np.flatnonzero((gold != predicted).any(axis=1))
    cases = [_case(rows, i, probabilities, gold, predicted, passages) for i in bad]
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
    }
    missed = int((gold & ~predicted).sum())
    body = BODY.format(
        source=escape(source),
        tiles=tiles(_headline(report, len(cases), calibration)),
        levels=_levels(report),
        paths=_paths(report),
        level_choice=_level_choice(depth),
        bins=BINS,
        mean_ece=percent(mean_error),
        level=", both of one level" if labels.hierarchical else "",
        bad=len(cases),
        rows=len(rows),
        passages=PASSAGES if passages is not None else "",
        alone=f"Of {missed} missed labels, {alone} are not replaced by a wrong label.",
        most=f" Only the {PAIRS} most frequent pairs are shown." if len(pairs) == PAIRS else "",
    )
    write_page(path, "Evaluation", body, STYLE + BOX_STYLE, page_script(__file__), data)


def _headline(report, bad, calibration):
    micro, macro = report["micro"], report["macro"]
    figures = [
        (percent(micro["f1"]), "micro F1"),
        (percent(macro["f1"]), "macro F1"),
        (percent(micro["precision"]), "micro precision"),
        (percent(micro["recall"]), "micro recall"),
        (percent(report["accuracy"]), "% of rows with all labels right"),
        (bad, f"bad cases of {report['rows']} rows"),
        (f"{calibration[0]['ece']:.2f}", "% calibration error"),
    ]
    if "hierarchical" in report:
        figures.insert(2, (percent(report["hierarchical"]["f1"]), "hierarchical F1"))
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
            f'<tr><td>{level["level"]}</td><td class="number">{level["labels"]}</td>{"".join(cells)}'
            f'<td class="number">{percent(level["accuracy"])}</td></tr>'
        )
    return (
        '<h2 id="levels">Levels</h2><div class="wide"><table class="bars"><thead><tr><th>level</th>'
        '<th class="number">labels</th><th colspan="2">micro F1</th><th colspan="2">macro F1</th>'
        f'<th class="number">rows right, %</th></tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
        '<p class="note">Each label is a full path. Rows right: rows in which all labels of that level are right.</p>'
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
        lines.append(f"<tr><td>{edges}</td>{''.join(cells)}</tr>")
    table = (
        '<div class="wide"><table class="bars"><thead><tr><th>edges away</th><th colspan="2">missed paths</th>'
        f'<th colspan="2">wrong paths</th></tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
    )
    means = " and ".join(f"{paths[kind]['mean']:.2f} for {kind} ones" for kind in ("missed", "wrong"))
    return (
        f'<h2 id="paths">Complete paths</h2><p class="note">Of {paths["gold"]} gold paths and {paths["predicted"]} '
        f"predicted ones, {paths['right']} match from the root to the deepest label: precision "
        f"{percent(paths['precision'])}, recall {percent(paths['recall'])}, F1 {percent(paths['f1'])}.</p>"
        f"{table if lines else ''}"
        '<p class="note">Edges of the tree between the end of a missed path and that of the nearest predicted path, or '
        "between a wrong path and the nearest gold one: 1 is one level too early or too late, 2 is a sibling or two "
        "levels, and more is another branch. If a row has no path to compare with, it is the number of levels of the "
        "path. "
        f"On average {means}. Rows with a label whose parent is missing: "
        f"{rows['by_thresholds']} by thresholds only, {rows['as_decided']} as decided.</p>"
    )


def _level_choice(depth):
    if depth.max(initial=1) == 1:
        return ""
    options = "".join(f'<option value="{level}">{level}</option>' for level in range(1, depth.max() + 1))
    return f'<label>Level <select id="label-level"><option value="">all</option>{options}</select></label>'


def _curves(gold, probabilities):
    """Curves and calibration, of all labels together first, then of each, and the mean calibration error of labels.

    curves: {ap: percent, points: [[recall, precision], ...]}. calibration: {ece: percent, bins: [[mean probability,
    share of gold, count], ...]}, without empty bins. Labels without gold rows have an empty curve.
    """
    columns = [(gold[:, i], probabilities[:, i]) for i in range(gold.shape[1])]
    sums = [reliability(*column, BINS) for column in columns]
    curves = [_curve(gold.ravel(), probabilities.ravel()), *(_curve(*column) for column in columns)]
    calibration = [_calibration(sum(sums)), *map(_calibration, sums)]
    return curves, calibration, float(np.mean([calibration_error(of_label) for of_label in sums]))


def _curve(gold, probabilities):
    precision, recall, _ = precision_recall(gold, probabilities)
    shown = np.unique(np.linspace(0, len(recall) - 1, min(POINTS, len(recall))).astype(int))
    points = np.column_stack([recall, precision])[shown].round(4).tolist()
    return {"ap": round(100 * average_precision(precision, recall), 2), "points": points}


def _calibration(sums):
    count, probability, share = sums[:, sums[0] > 0]
    bins = np.column_stack([probability / count, share / count]).round(4).tolist()
    return {"ece": round(100 * calibration_error(sums), 2), "bins": [[*b, int(n)] for b, n in zip(bins, count)]}


def _pairs(gold, predicted, parents):
    """[[missed label, label predicted instead, rows], ...], and how many missed labels no wrong label replaces."""
    missed, instead, rows, alone = confused_pairs(gold, predicted, parents)
    return np.column_stack([missed, instead, rows])[:PAIRS].tolist(), int(alone.sum())


def _case(rows, i, probabilities, gold, predicted, passages):
    """[line, text, [[label, state, probability], ...]]; states: 0 right, 1 missed, 2 wrong.

    If the text has more than one window, start and end of the label's passage follow the probability.
    """
    shown = np.flatnonzero(gold[i] | predicted[i])
    states = np.where(gold[i] & predicted[i], 0, np.where(gold[i], 1, 2))[shown]
    chances = probabilities[i, shown].astype(float).round(3)
    columns = [shown, states, chances]
    if passages is not None and (passages[i, shown] != (0, len(rows.texts[i]))).any():
        columns += [*passages[i, shown].T]
    return [int(rows.lines[i]), rows.texts[i], list(zip(*(column.tolist() for column in columns)))]
