"""The HTML page of `check_data.py`: report.html."""

import numpy as np

from text_cls.html_page import escape, say, section, svg, table, tiles, write_page
from text_cls.language import tr

LOOKS = (
    ("-", ""),
    ("--", "///"),
    (":", "..."),
)  # of train, dev and test, so that colour is not all that tells them apart
SHOWN = 1000  # labels and errors in the tables; report.json has the rest
STYLE = """
.finding { border-left: 5px solid var(--line); padding: 6px 12px; margin: 10px 0; background: var(--tint); }
.finding.is-fault { border-color: var(--wrong); } .finding.is-warning { border-color: var(--missed); }
.finding.is-note { border-color: var(--blue); }
.finding p { margin: 2px 0; overflow-wrap: anywhere; } .finding .what { font-weight: 600; }
.kind { font-size: .8em; color: var(--soft); text-transform: uppercase; letter-spacing: .05em; }
.finding ul { margin: 4px 0; padding-left: 18px; font-size: .88em; overflow-wrap: anywhere; }
summary { cursor: pointer; color: var(--soft); font-size: .88em; }
.tall { max-height: 560px; overflow: auto; border: 1px solid var(--line); border-radius: 8px; padding: 0 10px; }
.tall th { position: sticky; top: 0; background: var(--paper); }
.name { display: block; min-width: 8em; max-width: 30em; overflow-wrap: anywhere; }
.narrow table { width: auto; } .narrow td, .narrow th { padding-right: 28px; }
.bar { display: inline-block; height: .75em; background: var(--blue); border-radius: 2px; vertical-align: baseline; }
.bar.weak { background: var(--missed); }
td.bars { width: 24%; min-width: 90px; }
.tile { flex: 1 1 100px; } .tile b { white-space: nowrap; }
svg.figure { max-width: 520px; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 340px), 1fr)); gap: 14px; }
.plots p { margin: 0; text-align: center; }
"""


def write_report(path, report, lengths):
    """report: the dict of report.json. lengths: {split: int array, tokens of each row}, for the plot."""
    title = tr("Data check: {dataset}", dataset=report["dataset"])
    write_page(path, title, lambda: _body(title, report, lengths), style=STYLE)


def _body(title, report, lengths):
    made = tr("Made in {seconds} seconds. All figures are in report.json.", seconds=report["seconds"])
    parts = [
        f"<h1>{escape(title)}</h1>",
        _tiles(report),
        _problems(report["problems"]),
        _findings(report),
        _files(report),
        _plots(report, lengths),
        _lengths(report["lengths"]),
        _labels(report),
        _pairs(report["labels"]),
        _baseline(report.get("baseline")),
        _similarity(report.get("similarity")),
        _vocabulary(report.get("vocabulary")),
        f'<p class="note">{escape(made)}</p>',
    ]
    return "\n".join(filter(None, parts))


def _tiles(report):
    figures = [(f"{files['rows']:,}", tr("rows in {split}", split=split)) for split, files in report["files"].items()]
    warnings = sum(finding["severity"] == "warning" for finding in report["findings"])
    figures += [
        (len(report["labels"]["labels"]), tr("labels")),
        (report["problems"]["count"], tr("errors")),
        (warnings, tr("warnings")),
    ]
    baseline = report.get("baseline", {})
    if "dev" in baseline:
        figures.append((_f1s(baseline["dev"]), tr("micro / macro F1, linear baseline on dev")))
    elif "out_of_fold" in baseline:
        figures.append((_f1s(baseline["out_of_fold"]), tr("micro / macro F1, linear baseline, out of fold")))
    if "dev_with_thresholds" in baseline:
        figures.append((_f1s(baseline["dev_with_thresholds"]), tr("the same with one threshold per label")))
    return tiles(figures)


def _percent(share):
    return f"{100 * share:.2f}"


def _f1s(report):
    return f"{_percent(report['micro']['f1'])} / {_percent(report['macro']['f1'])}"


def _name(label):
    return f'<span class="name">{escape(label)}</span>'


def _bar(value, most, weak=False):
    """A bar for a value; one for `most` has the full length."""
    width = 100 * value / most if most else 0
    return f'<span class="bar{" weak" if weak else ""}" style="width:{width:.1f}%" role="presentation"></span>'


def _findings(report):
    kinds = {"warning": tr("warning"), "note": tr("note")}
    cards = []
    for finding in report["findings"]:
        items = "".join(f"<li>{escape(example)}</li>" for example in finding["examples"])
        examples = f"<details><summary>{say('Examples')}</summary><ul>{items}</ul></details>" if items else ""
        severity = finding["severity"]
        cards.append(
            f'<div class="finding is-{severity}"><span class="kind">{escape(kinds[severity])}</span>'
            f'<p class="what">{escape(finding["what"])}</p><p>{escape(finding["remedy"])}{say(".")}</p>{examples}</div>'
        )
    return section(tr("Findings"), *cards)


def _problems(problems):
    if not problems["count"]:
        return ""
    items = "".join(f"<li>{escape(message)}</li>" for message in problems["messages"][:SHOWN])
    more = problems["count"] - min(SHOWN, len(problems["messages"]))
    rest = f"<p>{say('... and {count} more', count=more)}</p>" if more else ""
    return section(
        tr("Errors"),
        f"<p>{say('train.py rejects these files until they are fixed.')}</p>",
        f'<div class="finding is-fault tall" tabindex="0"><ul>{items}</ul>{rest}</div>',
    )


def _files(report):
    head = [
        tr("file"),
        tr("rows") + "#",
        tr("labels per row") + "#",
        tr("without a label") + "#",
        tr("blank lines") + "#",
    ]
    rows = [
        [escape(f["path"]), f"{f['rows']:,}", f"{f['labels_per_row']:.2f}", f["without_label"], f["blank_lines"]]
        for f in report["files"].values()
    ]
    return section(tr("Files"), table(tr("Files"), head, rows))


def _figure(title, x, y):
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(4.6, 2.9))
    axes = drawing.subplots()
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return drawing, axes


def _plots(report, lengths):
    drawings = [_length_plot(lengths), _label_count_plot(report["files"])] if lengths else []
    train = sorted((label["rows"].get("train", 0) for label in report["labels"]["labels"]), reverse=True)
    if train and train[0]:
        drawings.append(_frequency_plot(train))
    boxes = "".join(f"<div>{drawing}</div>" for drawing in drawings)
    return section(tr("At a glance"), f'<div class="plots">{boxes}</div>') if boxes else ""


def _length_plot(lengths):
    drawing, axes = _figure(tr("Length of texts"), tr("tokens"), tr("share of rows"))
    most = max(int(np.quantile(values, 0.995)) for values in lengths.values()) + 1
    bins = np.linspace(0, max(most, 8), 41)
    for (name, values), (line, _) in zip(lengths.items(), LOOKS):
        weights = np.full(len(values), 1 / max(1, len(values)))
        axes.hist(values, bins, weights=weights, histtype="step", linestyle=line, linewidth=1.6, label=name)
    axes.legend(fontsize=8, frameon=False)
    return svg(drawing, tr("Length of texts, by file"))


def _label_count_plot(files):
    drawing, axes = _figure(tr("Labels per row"), tr("labels"), tr("share of rows"))
    width = 0.8 / len(files)
    for k, ((name, figures), (_, hatch)) in enumerate(zip(files.items(), LOOKS)):
        counts = np.array(figures["rows_by_number_of_labels"])
        positions = np.arange(len(counts)) + (k - (len(files) - 1) / 2) * width
        axes.bar(positions, counts / counts.sum(), width, label=name, hatch=hatch, edgecolor="white", linewidth=0)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(fontsize=8, frameon=False)
    return svg(drawing, tr("Labels per row, by file"))


def _frequency_plot(counts):
    drawing, axes = _figure(tr("Rows per label in train"), tr("labels, most frequent first"), tr("rows"))
    axes.plot(np.arange(1, len(counts) + 1), counts, marker=".", markersize=3, linewidth=1)
    axes.set_yscale("symlog")
    axes.set_ylim(bottom=0)
    axes.xaxis.get_major_locator().set_params(integer=True)
    return svg(drawing, tr("Rows per label in train, most frequent first"))


def _lengths(lengths):
    limits = list(next(iter(lengths["files"].values()), {"cut": ()})["cut"])
    head = [
        tr("file"),
        tr("median") + "#",
        tr("90th percentile") + "#",
        tr("99th percentile") + "#",
        tr("longest") + "#",
        *(tr("cut at {limit}", limit=limit) + "#" for limit in limits),
    ]
    rows = [
        [
            escape(split),
            *(f["quantiles"][q] for q in ("50", "90", "99", "100")),
            *map("{:.1%}".format, f["cut"].values()),
        ]
        for split, f in lengths["files"].items()
    ]
    note = tr("In {unit}, including special tokens.", unit=lengths["unit"])
    return section(tr("Lengths"), table(tr("Lengths"), head, rows), note=note)


def _labels(report):
    labels, baseline = report["labels"]["labels"], report.get("baseline", {})
    if not labels:
        return ""
    splits = list(report["files"])
    kinds = [k for k in ("dev", "dev_with_thresholds") if k in baseline] or [
        k for k in ("out_of_fold",) if k in baseline
    ]
    f1 = {kind: {s["label"]: s["f1"] for s in baseline[kind]["per_class"]} for kind in kinds}
    titles = {"dev": "F1", "dev_with_thresholds": tr("with thresholds"), "out_of_fold": tr("F1 out of fold")}
    head = [tr("label"), "train=", *(f"{split}#" for split in splits), tr("alone") + "#"]
    head += [titles[kind] + "#" for kind in kinds]
    most = max((label["rows"].get("train", 0) for label in labels), default=0)
    order = sorted(labels, key=lambda label: -label["rows"].get("train", 0))
    rows = [
        [
            _name(label["label"]),
            _bar(label["rows"].get("train", 0), most),
            *(f"{label['rows'][split]:,}" for split in splits),
            label.get("alone", ""),
            *(_percent(f1[kind][label["label"]]) for kind in kinds),
        ]
        for label in order[:SHOWN]
    ]
    notes = [tr("Rows per label, most frequent first. Alone: rows in train with no other label or path.")]
    if kinds:
        notes.append(tr("F1: of the linear baseline, in percent."))
    if len(order) > SHOWN:
        notes.append(tr("The first {shown} of {count}.", shown=SHOWN, count=len(order)))
    return section(tr("Labels"), table(tr("Labels"), head, rows, "tall"), note=" ".join(notes))


def _pairs(labels):
    pairs = labels.get("cooccurrence", [])[:30]
    if not pairs:
        return ""
    most = pairs[0]["rows"]
    rows = [[*map(_name, pair["labels"]), _bar(pair["rows"], most), f"{pair['rows']:,}"] for pair in pairs]
    title = tr("Labels that appear together")
    note = tr("The pairs with the most rows in common in train. A label and its parent do not count as a pair.")
    head = [tr("label"), tr("and"), "=", tr("rows") + "#"]
    return section(title, table(title, head, rows, "tall"), note=note)


def _baseline(baseline):
    if not baseline:
        return ""
    titles = {
        "dev": tr("dev"),
        "dev_with_thresholds": tr("dev, one threshold per label"),
        "out_of_fold": tr("train, out of fold"),
    }
    head = [tr("rows scored"), tr("level"), "micro F1#", "macro F1#", tr("exact match") + "#"]
    rows = []
    for kind, title in titles.items():
        if kind not in baseline:
            continue
        for level in [None, *baseline[kind].get("levels", ())]:
            scores = level or baseline[kind]
            name = tr("all")
            if level:
                name = tr("{level} ({labels} labels)", level=level["level"], labels=level["labels"])
            cells = (_percent(scores["micro"]["f1"]), _percent(scores["macro"]["f1"]), _percent(scores["accuracy"]))
            rows.append([escape(title), escape(name), *cells])
    note = tr(
        "TF-IDF of runs of 1 to 3 characters and one linear SVM per label, trained on {rows:,} rows. Thresholds come "
        "only from train, from scores of rows that the model was not trained on. In percent.",
        rows=baseline["rows"],
    )
    title = tr("Linear baseline")
    return section(title, table(title, head, rows), note=note)


def _similarity(similarity):
    if not similarity:
        return ""
    title, parts = tr("Is dev like train?"), []
    if "auc" in similarity:
        text = say(
            "A linear model tells rows of dev from rows of train with an AUC of {auc:.2f} (0.5: guessing, 1: certain).",
            auc=similarity["auc"],
        )
        parts.append(f"<p>{text}</p>")
    different = similarity["label_shares_that_differ"]
    if not different:
        return section(title, *parts, f"<p>{say('No share of a label differs by more than chance.')}</p>")
    rows = [[_name(d["label"]), f"{100 * d['train']:.1f}%", f"{100 * d['dev']:.1f}%"] for d in different[:SHOWN]]
    head = [tr("labels whose share differs"), tr("in train") + "#", tr("in dev") + "#"]
    return section(title, *parts, table(title, head, rows, "tall" if len(rows) > 15 else "narrow"))


def _vocabulary(vocabulary):
    if not vocabulary:
        return ""
    rows = [[escape(char), f"U+{ord(char):04X}", count] for char, count in vocabulary["unknown_characters"].items()]
    share, name = vocabulary["unknown_share"], vocabulary["tokenizer"]
    text = say("{share:.3%} of all characters are unknown to {name}.", share=share, name=name)
    title = tr("Characters unknown to the tokenizer")
    head = [tr("character"), tr("code"), tr("count") + "#"]
    return section(title, f"<p>{text}</p>", table(title, head, rows, "narrow") if rows else "")
