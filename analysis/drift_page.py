"""The HTML page of `drift.py --html`. It has names of labels and runs of three characters at most, and no text."""

from text_cls.html_page import escape, tiles, write_page
from text_cls.reference import BINS, LENGTHS

SHOWN = 200  # labels in the table; the JSON report has all
STYLE = """
.finding { border-left: 5px solid var(--wrong); padding: 6px 12px; margin: 10px 0; background: var(--tint); }
.finding.calm { border-color: var(--right); } .finding.warning { border-color: var(--missed); }
.name { overflow-wrap: anywhere; min-width: 7em; }
tr.changed td { font-weight: 600; }
.up { color: var(--blue); } .down { color: var(--missed); }
.bar { display: block; height: .7em; border-radius: 2px; min-width: 1px; print-color-adjust: exact; }
.bar.before { background: var(--line); } .bar.after { background: var(--blue); }
td.drawn { width: 46%; min-width: 90px; }
.key span { margin-right: 14px; }
.key span::before { content: ""; display: inline-block; width: 12px; height: 12px; margin-right: 5px;
  border-radius: 3px; vertical-align: -1px; background: var(--line); print-color-adjust: exact; }
.key .after::before { background: var(--blue); }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 330px), 1fr)); gap: 12px 32px; }
.gram { display: inline-block; margin: 2px 4px 2px 0; padding: 0 8px; border: 1px solid var(--line); border-radius: 6px;
  white-space: pre; }
@media (max-width: 620px) { .extra { display: none; } }
"""
KEY = '<p class="key note"><span>dev</span><span class="after">now</span></p>'


def write_drift_page(path, report):
    """Writes the page, whole or not at all. report: what `drift.py --report_file` writes."""
    title = f"Drift: {report['source']}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        _tiles(report),
        _verdict(report),
        _labels(report),
        _f1(report["f1"]),
        _domain(report.get("domain")),
        _histograms(report),
    ]
    write_page(path, title, "\n".join(parts), style=STYLE)


def _percent(share):
    return f"{100 * share:.2f}%"


def _tiles(report):
    f1, without, unknown = report["f1"], report["without_label"], report["unknown_tokens"]
    figures = [
        (f"{report['rows']['after']:,}", f"texts now; {report['rows']['before']:,} rows of dev"),
        (report["changed_labels"], f"of {len(report['labels'])} labels changed"),
        (_percent(without["after"]), f"rows without a label; dev {_percent(without['before'])}"),
        (_percent(unknown["after"]), f"unknown tokens; dev {_percent(unknown['before'])}"),
        (f"{100 * f1['micro_f1'][0]:.2f}", f"micro F1 by estimate; dev {100 * f1['reference']['micro_f1']:.2f}"),
    ]
    if domain := report.get("domain"):
        figures.append((f"{domain['auc']:.2f}", "AUC of telling the texts from dev; 0.5: guessing"))
    return tiles(figures)


def _verdict(report):
    if report["too_few"]:
        text = "Too few rows on one side: nothing can be said, and no limit was checked."
        return f'<div class="finding warning">{text}</div>'
    lines = [f'<div class="finding">{escape(line)}</div>' for line in report["beyond"]]
    calm = "No limit is exceeded." if report["limits"] else "No limit was given (--max_*)."
    return "".join(lines) or f'<div class="finding calm">{calm}</div>'


def _labels(report):
    rows, found = [], [label for label in report["labels"] if label["before"] or label["after"]]
    for label in found[:SHOWN]:
        rise = label["after"] - label["before"]
        mark = ('<span class="up">▲</span>' if rise > 0 else '<span class="down">▼</span>') if label["changed"] else ""
        cells = (_percent(label["before"]), _percent(label["after"]))
        interval = f"{100 * label['low']:+.2f} to {100 * label['high']:+.2f}"
        rows.append(
            f'<tr{" class=changed" if label["changed"] else ""}><td class="name">{mark} {escape(label["label"])}</td>'
            f'<td class="number">{cells[0]}</td><td class="number">{cells[1]}</td>'
            f'<td class="number">{interval}</td><td class="number extra">{label["p"]:.2g}</td></tr>'
        )
    more = f" The first {SHOWN} of {len(found)}." if len(found) > SHOWN else ""
    if never := len(report["labels"]) - len(found):
        more += f" {never} labels are never predicted, neither on dev nor now."
    if report["not_compared"]:
        more += f" {report['not_compared']} further labels are counted together by the server."
    return (
        "<h2>Labels</h2><p class='note'>Share of the rows for which each label is predicted. Bold: changed by more "
        "than chance (Fisher's exact test, corrected by Holm: 5 percent risk of any false alarm among all labels). The "
        f"interval of the change, in points, is that of each label alone (Newcombe, 95 percent).{more}</p>"
        '<div class="wide" tabindex="0"><table><thead><tr><th>label</th><th class="number">dev</th>'
        '<th class="number">now</th><th class="number">change</th><th class="number extra">p</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _f1(f1):
    value, low, high = (f"{100 * value:.2f}" for value in f1["micro_f1"])
    macro = ""
    if "macro_f1" in f1:
        before = 100 * f1["reference"]["macro_f1"]
        macro = f" Macro F1, a rougher estimate: {100 * f1['macro_f1'][0]:.2f} (dev {before:.2f})."
    return (
        f"<h2>F1 without labels</h2><p>Micro F1 {value} ({low} to {high}); dev "
        f"{100 * f1['reference']['micro_f1']:.2f}.{macro}</p>"
        '<p class="note">Each score counts as the share of right labels that scores like it had on dev. That fails '
        "where the model is sure and wrong, as on texts of a new kind: label some of these texts to know.</p>"
    )


def _domain(domain):
    if not domain:
        return ""
    lists = (("More in the texts now", domain["more_in_second"]), ("More in dev", domain["more_in_first"]))
    shown = "".join(
        f"<p>{title}: {''.join(f'<span class=gram>{escape(gram)}</span>' for gram in grams)}</p>"
        for title, grams in lists
    )
    auc = f"{domain['auc']:.2f} ({domain['low']:.2f} to {domain['high']:.2f})"
    return (
        f"<h2>Texts</h2><p>A linear model tells these texts from those of dev with an AUC of {auc}. 0.5 is guessing, 1 "
        f"is certain. It was scored on texts that it was not trained on.</p>{shown}"
    )


def _histogram(title, names, values, note):
    shares = [[count / max(1, sum(values[when])) for count in values[when]] for when in ("before", "after")]
    most = max(map(max, shares)) or 1
    rows = "".join(
        f'<tr><td class="number">{name}</td><td class="drawn">'
        + "".join(
            f'<span class="bar {when}" style="width:{100 * share / most:.1f}%"></span>'
            for when, share in (("before", before), ("after", after))
        )
        + f'</td><td class="number">{_percent(before)}</td><td class="number">{_percent(after)}</td></tr>'
        for name, before, after in zip(names, *shares)
    )
    return (
        f"<section><h3>{title}</h3><table><thead><tr><th class='number'>up to</th><th></th>"
        f'<th class="number">dev</th><th class="number">now</th></tr></thead><tbody>{rows}</tbody></table>'
        f'<p class="note">{note} Distance of the two: {values["distance"]:.3f} (0: the same shares, 1: none in common).'
        "</p></section>"
    )


def _histograms(report):
    scores = _histogram("Scores of all labels", [f"{end:g}" for end in BINS], report["scores"], "Calibrated.")
    names = [*map(str, LENGTHS), "more"]
    lengths = _histogram("Tokens per text", names, report["lengths"], "As far as the model reads.")
    return f'<h2>Scores and lengths</h2>{KEY}<div class="charts">{scores}{lengths}</div>'
