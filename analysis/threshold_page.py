"""The HTML page of `threshold.py --html`: what fitted thresholds gain, and the F1 of each label at every threshold."""

import numpy as np

from text_cls.html_page import escape, section, table, tiles, write_page
from text_cls.label_tree import shown_path
from text_cls.language import tr
from text_cls.scores import averages

STEPS = 25  # thresholds of a curve
WIDTH, HEIGHT = 120, 30  # of a curve, in pixels
CURVES = 2000  # labels that have a curve, those with the most rows

STYLE = """
svg.curve { display: block; width: 120px; min-width: 120px; }
svg.curve path { fill: none; stroke: var(--blue); stroke-width: 1.5; }
svg.curve line { stroke: var(--soft); stroke-dasharray: 2 2; }
svg.curve line.fitted { stroke: var(--missed); stroke-dasharray: none; stroke-width: 2; }
.verdict { padding: 8px 12px; border: 1px solid var(--line); border-left: 5px solid var(--missed); border-radius: 6px; }
.verdict.worth { border-left-color: var(--right); }
td:first-child, th:first-child { min-width: 8em; }
.name { overflow-wrap: anywhere; }
.up { color: var(--right); }
.down { color: var(--wrong); }
td .fitted { color: var(--missed); }
"""


def write_threshold_page(path, source, labels, outcome):
    """Writes the page, whole or not at all.

    Args:
        source: the model and the rows, in words.
        outcome: `Outcome` of threshold.py.
    """
    title = tr("Thresholds")
    write_page(path, title, lambda: _body(title, source, labels, outcome), STYLE)


def _body(title, source, labels, outcome):
    return "\n".join(
        [
            f"<h1>{escape(title)}</h1>",
            f'<p class="note">{escape(source)}</p>',
            _tiles(labels, outcome),
            f'<p class="verdict{" worth" if outcome.worth_it else ""}">{escape(outcome.verdict)}</p>',
            _candidates(outcome),
            _labels(labels, outcome),
        ]
    )


def _tiles(labels, outcome):
    before, chosen = outcome.lines[0][1], outcome.lines[-1][1]  # of rows used neither to fit nor to choose
    fitted = np.broadcast_to(outcome.chosen.decision.threshold, len(labels))
    figures = [
        (len(outcome.gold), tr("rows")),
        (len(labels), tr("labels")),
        (f"{chosen[2]:.2f}", tr("micro F1; with 0.5: {before}", before=f"{before[2]:.2f}")),
        (f"{chosen[3]:.2f}", tr("macro F1; with 0.5: {before}", before=f"{before[3]:.2f}")),
        (f"{np.median(fitted):.2f}", tr("median of the fitted thresholds")),
    ]
    return tiles(figures)


def _candidates(outcome):
    note = tr(
        "Figures of fitted thresholds are those on rows that they were not fitted to: each part of the rows is decided "
        "with thresholds fitted to the other parts. The gain is over a threshold of 0.5; if its interval is not above "
        "0, it may be chance."
    )
    titles = ["", tr("micro P") + "#", tr("micro R") + "#", "micro F1#", "macro F1#", tr("exact") + "#"]
    gains = any(gain for _, _, gain in outcome.lines)
    titles += [tr("gain (95% interval)") + "#"] * gains
    rows = []
    for name, figures, gain in outcome.lines:
        interval = gain and tr(
            "{gain:+.2f} ({low:+.2f} to {high:+.2f})",
            **{part: 100 * value for part, value in zip(("gain", "low", "high"), gain)},
        )
        rows.append([escape(name), *(f"{figure:.2f}" for figure in figures), *[escape(interval or "")] * gains])
    return section(tr("What was compared"), table(tr("What was compared"), titles, rows), note=note)


def _labels(labels, outcome):
    note = tr(
        "F1 of each label with 0.5, and with the fitted threshold on rows it was not fitted to. The curve is the "
        "label's F1 at thresholds from 0 to 1 on all these rows, without levels of a hierarchy or limits on the "
        "number of labels: the dashed line is at 0.5, the solid one at the fitted threshold. A narrow peak, or few "
        "rows, say that another sample could give another threshold."
    )
    fitted = np.broadcast_to(outcome.chosen.decision.threshold, len(labels))
    support = outcome.gold.sum(axis=0)
    before, after = (
        100 * f1_of_each(outcome.gold, predicted) for predicted in (outcome.before, outcome.chosen.predicted)
    )
    drawn = set(np.argsort(-support, kind="stable")[:CURVES].tolist())
    rows = []
    for i, name in enumerate(labels.names):
        change = after[i] - before[i]
        way = "up" if change > 0 else "down" if change < 0 else ""
        rows.append(
            [
                f'<span class="name">{escape(shown_path(name))}</span>',
                f"{support[i]}",
                f'<span class="fitted">{fitted[i]:.4g}</span>',
                f"{before[i]:.2f}",
                f"{after[i]:.2f}",
                f'<span class="{way}">{change:+.2f}</span>',
                _curve(outcome.gold[:, i], outcome.probabilities[:, i], fitted[i], name) if i in drawn else "",
            ]
        )
    head = [tr("label"), tr("rows") + "#", tr("threshold") + "#", tr("F1 with 0.5") + "#", tr("F1 fitted") + "#"]
    head += [tr("change") + "#", ""]
    if len(labels) > CURVES:
        note += " " + tr("Only the {count} labels with the most rows have a curve.", count=CURVES)
    return section(tr("Labels"), table(tr("Labels"), head, rows, "tall"), note=note)


def f1_of_each(gold, predicted):
    """F1 of each label, float array [labels], from 0 to 1."""
    _, _, ratios = averages(gold, predicted)
    return np.asarray(ratios[2])


def _curve(gold, chances, fitted, name):
    grid = np.arange(STEPS + 1) / STEPS
    predicted, right = (
        len(values) - np.searchsorted(np.sort(values), grid, side="right") for values in (chances, chances[gold])
    )
    f1 = 2 * right / np.maximum(gold.sum() + predicted, 1)
    points = " L".join(
        f"{x * WIDTH:.0f} {HEIGHT - 1 - y * (HEIGHT - 2):.1f}" for x, y in zip(grid.tolist(), f1.tolist())
    )
    best = grid[f1.argmax()]
    text = tr("F1 of {label} by threshold; highest at {best:.2f}", label=name, best=best)
    lines = "".join(
        f'<line class="{style}" x1="{x * WIDTH:.0f}" x2="{x * WIDTH:.0f}" y1="0" y2="{HEIGHT}"/>'
        for style, x in (("plain", 0.5), ("fitted", float(fitted)))
    )
    return (
        f'<svg class="curve" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(text)}">{lines}'
        f'<path d="M{points}"/></svg>'
    )
