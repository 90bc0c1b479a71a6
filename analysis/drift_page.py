"""The HTML page of `drift.py --html`. It has names of labels and runs of three characters at most, and no text."""

from text_cls.html_page import escape, say, section, table, tiles, write_page
from text_cls.language import tr
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
"""


def write_drift_page(path, report):
    """Writes the page, whole or not at all. report: what `drift.py --report_file` writes."""
    title = tr("Drift: {source}", source=report["source"])
    write_page(path, title, lambda: _body(title, report), style=STYLE)


def _body(title, report):
    parts = [
        f"<h1>{escape(title)}</h1>",
        _tiles(report),
        _verdict(report),
        _labels(report),
        _f1(report["f1"]),
        _domain(report.get("domain")),
        _histograms(report),
    ]
    return "\n".join(parts)


def _percent(share):
    return f"{100 * share:.2f}%"


def _tiles(report):
    f1, without, unknown = report["f1"], report["without_label"], report["unknown_tokens"]
    before = 100 * f1["reference"]["micro_f1"]
    figures = [
        (f"{report['rows']['after']:,}", tr("texts now; {rows:,} rows of dev", rows=report["rows"]["before"])),
        (report["changed_labels"], tr("of {count} labels changed", count=len(report["labels"]))),
        (_percent(without["after"]), tr("rows without a label; dev {share}", share=_percent(without["before"]))),
        (_percent(unknown["after"]), tr("unknown tokens; dev {share}", share=_percent(unknown["before"]))),
        (f"{100 * f1['micro_f1'][0]:.2f}", tr("micro F1 by estimate; dev {f1:.2f}", f1=before)),
    ]
    if domain := report.get("domain"):
        figures.append((f"{domain['auc']:.2f}", tr("AUC of telling the texts from dev; 0.5: guessing")))
    return tiles(figures)


def _verdict(report):
    if report["too_few"]:
        text = say("Too few rows on one side: nothing can be said, and no limit was checked.")
        return f'<div class="finding warning">{text}</div>'
    lines = [f'<div class="finding">{escape(line)}</div>' for line in report["beyond"]]
    calm = say("No limit is exceeded.") if report["limits"] else say("No limit was given (--max_*).")
    return "".join(lines) or f'<div class="finding calm">{calm}</div>'


def _labels(report):
    rows, found = [], [label for label in report["labels"] if label["before"] or label["after"]]
    for label in found[:SHOWN]:
        rise = label["after"] - label["before"]
        mark = ""
        if label["changed"]:
            sign, way, name = ("▲", "up", tr("rises")) if rise > 0 else ("▼", "down", tr("falls"))
            mark = f'<span class="{way}" role="img" aria-label="{escape(name)}">{sign}</span>'
        rows.append(
            [
                f'<span class="name">{mark} {escape(label["label"])}</span>',
                _percent(label["before"]),
                _percent(label["after"]),
                say("{low:+.2f} to {high:+.2f}", low=100 * label["low"], high=100 * label["high"]),
                f"{label['p']:.2g}",
            ]
        )
    notes = [
        tr(
            "Share of the rows for which each label is predicted. Bold: changed by more than chance (Fisher's exact "
            "test, corrected by Holm: 5 percent risk of any false alarm among all labels). The interval of the "
            "change, in points, is that of each label alone (Newcombe, 95 percent)."
        )
    ]
    if len(found) > SHOWN:
        notes.append(tr("The first {shown} of {count}.", shown=SHOWN, count=len(found)))
    if never := len(report["labels"]) - len(found):
        notes.append(tr("{count} labels are never predicted, neither on dev nor now.", count=never))
    if report["not_compared"]:
        notes.append(tr("{count} further labels are counted together by the server.", count=report["not_compared"]))
    head = [tr("label"), tr("dev") + "#", tr("now") + "#", tr("change") + "#", "p#"]
    changed = ["changed" if label["changed"] else "" for label in found[:SHOWN]]
    return section(tr("Labels"), table(tr("Labels"), head, rows, of_rows=changed), note=" ".join(notes))


def _f1(f1):
    value, low, high = (100 * value for value in f1["micro_f1"])
    before = 100 * f1["reference"]["micro_f1"]
    found = say("Micro F1 {f1:.2f} ({low:.2f} to {high:.2f}); dev {dev:.2f}.", f1=value, low=low, high=high, dev=before)
    if "macro_f1" in f1:
        macro, of_dev = 100 * f1["macro_f1"][0], 100 * f1["reference"]["macro_f1"]
        found += say(" Macro F1, a rougher estimate: {f1:.2f} (dev {dev:.2f}).", f1=macro, dev=of_dev)
    note = say(
        "Each score counts as the share of right labels that scores like it had on dev. That fails where the model is "
        "sure and wrong, as on texts of a new kind: label some of these texts to know."
    )
    return section(tr("F1 without labels"), f'<p>{found}</p><p class="note">{note}</p>')


def _domain(domain):
    if not domain:
        return ""
    lists = (
        (tr("More in the texts now"), domain["more_in_second"]),
        (tr("More in dev"), domain["more_in_first"]),
    )
    shown = "".join(
        f"<p>{escape(title)}{say(': ')}{''.join(f'<span class=gram>{escape(gram)}</span>' for gram in grams)}</p>"
        for title, grams in lists
    )
    text = say(
        "A linear model tells these texts from those of dev with an AUC of {auc:.2f} ({low:.2f} to {high:.2f}). 0.5 "
        "is guessing, 1 is certain. It was scored on texts that it was not trained on.",
        **{name: domain[name] for name in ("auc", "low", "high")},
    )
    return section(tr("Texts"), f"<p>{text}</p>{shown}")


def _histogram(title, names, values, note):
    shares = [[count / max(1, sum(values[when])) for count in values[when]] for when in ("before", "after")]
    most = max(map(max, shares)) or 1
    rows = "".join(
        f'<tr><th scope="row" class="number">{escape(name)}</th><td class="drawn">'
        + "".join(
            f'<span class="bar {when}" style="width:{100 * share / most:.1f}%"></span>'
            for when, share in (("before", before), ("after", after))
        )
        + f'</td><td class="number">{_percent(before)}</td><td class="number">{_percent(after)}</td></tr>'
        for name, before, after in zip(names, *shares)
    )
    distance = say(
        "Distance of the two: {distance:.3f} (0: the same shares, 1: none in common).", distance=values["distance"]
    )
    return (
        f'<section><h3>{escape(title)}</h3><table><caption>{escape(title)}</caption><thead><tr><th scope="col" '
        f'class="number">{say("up to")}</th><td></td><th scope="col" class="number">{say("dev")}</th>'
        f'<th scope="col" class="number">{say("now")}</th></tr></thead><tbody>{rows}</tbody></table>'
        f'<p class="note">{escape(note)} {distance}</p></section>'
    )


def _histograms(report):
    key = f'<p class="key note"><span>{say("dev")}</span><span class="after">{say("now")}</span></p>'
    ends = [f"{end:g}" for end in BINS]
    scores = _histogram(tr("Scores of all labels"), ends, report["scores"], tr("Calibrated."))
    names = [*map(str, LENGTHS), tr("more")]
    lengths = _histogram(tr("Tokens per text"), names, report["lengths"], tr("As far as the model reads."))
    return section(tr("Scores and lengths"), f'{key}<div class="charts">{scores}{lengths}</div>')
