"""The HTML page of `check_data.py`: report.html."""

import numpy as np

from text_cls.html_page import escape, svg, tiles, write_page

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
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 340px), 1fr)); gap: 14px; }
.plots p { margin: 0; text-align: center; }
"""


def write_report(path, report, lengths):
    """report: the dict of report.json. lengths: {split: int array, tokens of each row}, for the plot."""
    title = f"Data check: {report['dataset']}"
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
        f'<p class="note">Made in {report["seconds"]} seconds. All figures are in report.json.</p>',
    ]
    write_page(path, title, "\n".join(filter(None, parts)), style=STYLE)


def _tiles(report):
    figures = [(f"{files['rows']:,}", f"rows in {split}") for split, files in report["files"].items()]
    warnings = sum(finding["severity"] == "warning" for finding in report["findings"])
    labels, errors = len(report["labels"]["labels"]), report["problems"]["count"]
    for count, noun in ((labels, "label"), (errors, "error"), (warnings, "warning")):
        figures.append((count, noun if count == 1 else f"{noun}s"))
    baseline = report.get("baseline", {})
    scored = "dev" if "dev" in baseline else "out_of_fold"
    if scored in baseline:
        name = "linear baseline on dev" if scored == "dev" else "linear baseline, out of fold"
        figures.append((_f1s(baseline[scored]), f"micro / macro F1, {name}"))
    if "dev_with_thresholds" in baseline:
        figures.append((_f1s(baseline["dev_with_thresholds"]), "the same with one threshold per label"))
    return tiles(figures)


def _percent(share):
    return f"{100 * share:.2f}"


def _f1s(report):
    return f"{_percent(report['micro']['f1'])} / {_percent(report['macro']['f1'])}"


def _table(head, rows, style=""):
    """HTML of a table.

    Args:
        head: column names; ending in '#' for numbers, in '=' for bars.
        rows: lists of cells, as HTML.
        style: "tall" scrolls, "narrow" does not fill the page.
    """
    kinds = {"#": ' class="number"', "=": ' class="bars"'}
    kinds = [kinds.get(name[-1:], "") for name in head]
    top = "".join(f"<th{kind}>{escape(name.rstrip('#='))}</th>" for name, kind in zip(head, kinds))
    cells = ("".join(f"<td{kind}>{cell}</td>" for cell, kind in zip(row, kinds)) for row in rows)
    body = "".join(f"<tr>{row}</tr>" for row in cells)
    table = f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="wide {style}" tabindex="0">{table}</div>'


def _name(label):
    return f'<span class="name">{escape(label)}</span>'


def _bar(value, most, weak=False):
    """A bar for a value; one for `most` has the full length."""
    width = 100 * value / most if most else 0
    return f'<span class="bar{" weak" if weak else ""}" style="width:{width:.1f}%" role="presentation"></span>'


def _findings(report):
    cards = []
    for finding in report["findings"]:
        items = "".join(f"<li>{escape(example)}</li>" for example in finding["examples"])
        examples = f"<details><summary>Examples</summary><ul>{items}</ul></details>" if items else ""
        cards.append(
            f'<div class="finding is-{finding["severity"]}"><span class="kind">{finding["severity"]}</span>'
            f'<p class="what">{escape(finding["what"])}</p><p>{escape(finding["remedy"])}.</p>{examples}</div>'
        )
    return "<h2>Findings</h2>" + "".join(cards)


def _problems(problems):
    if not problems["count"]:
        return ""
    items = "".join(f"<li>{escape(message)}</li>" for message in problems["messages"][:SHOWN])
    more = problems["count"] - min(SHOWN, len(problems["messages"]))
    rest = f"<p>... and {more} more</p>" if more else ""
    return (
        f'<h2>Errors</h2><p>train.py rejects these files until they are fixed.</p><div class="finding is-fault tall">'
        f"<ul>{items}</ul>{rest}</div>"
    )


def _files(report):
    head = ["file", "rows#", "labels per row#", "without a label#", "blank lines#"]
    rows = [
        [escape(f["path"]), f"{f['rows']:,}", f"{f['labels_per_row']:.2f}", f["without_label"], f["blank_lines"]]
        for f in report["files"].values()
    ]
    return "<h2>Files</h2>" + _table(head, rows)


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
    return f'<h2>At a glance</h2><div class="plots">{boxes}</div>' if boxes else ""


def _length_plot(lengths):
    drawing, axes = _figure("Length of texts", "tokens", "share of rows")
    most = max(int(np.quantile(values, 0.995)) for values in lengths.values()) + 1
    bins = np.linspace(0, max(most, 8), 41)
    for name, values in lengths.items():
        axes.hist(values, bins, weights=np.full(len(values), 1 / max(1, len(values))), histtype="step", label=name)
    axes.legend(fontsize=8, frameon=False)
    return svg(drawing, "Length of texts, by file")


def _label_count_plot(files):
    drawing, axes = _figure("Labels per row", "labels", "share of rows")
    width = 0.8 / len(files)
    for k, (name, figures) in enumerate(files.items()):
        counts = np.array(figures["rows_by_number_of_labels"])
        positions = np.arange(len(counts)) + (k - (len(files) - 1) / 2) * width
        axes.bar(positions, counts / counts.sum(), width, label=name)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(fontsize=8, frameon=False)
    return svg(drawing, "Labels per row, by file")


def _frequency_plot(counts):
    drawing, axes = _figure("Rows per label in train", "labels, most frequent first", "rows")
    axes.plot(np.arange(1, len(counts) + 1), counts, marker=".", markersize=3, linewidth=1)
    axes.set_yscale("symlog")
    axes.set_ylim(bottom=0)
    axes.xaxis.get_major_locator().set_params(integer=True)
    return svg(drawing, "Rows per label in train, most frequent first")


def _lengths(lengths):
    limits = list(next(iter(lengths["files"].values()), {"cut": ()})["cut"])
    head = [
        "file",
        "median#",
        "90th percentile#",
        "99th percentile#",
        "longest#",
        *(f"cut at {limit}#" for limit in limits),
    ]
    rows = [
        [
            escape(split),
            *(f["quantiles"][q] for q in ("50", "90", "99", "100")),
            *map("{:.1%}".format, f["cut"].values()),
        ]
        for split, f in lengths["files"].items()
    ]
    note = f'<p class="note">In {escape(lengths["unit"])}, including special tokens.</p>'
    return f"<h2>Lengths</h2>{note}{_table(head, rows)}"


def _labels(report):
    labels, baseline = report["labels"]["labels"], report.get("baseline", {})
    if not labels:
        return ""
    splits = list(report["files"])
    kinds = [k for k in ("dev", "dev_with_thresholds") if k in baseline] or [
        k for k in ("out_of_fold",) if k in baseline
    ]
    f1 = {kind: {s["label"]: s["f1"] for s in baseline[kind]["per_class"]} for kind in kinds}
    titles = {"dev": "F1#", "dev_with_thresholds": "with thresholds#", "out_of_fold": "F1 out of fold#"}
    head = ["label", "train=", *(f"{split}#" for split in splits), "alone#", *(titles[kind] for kind in kinds)]
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
    note = "Rows per label, most frequent first. Alone: rows in train with no other label or path."
    if kinds:
        note += " F1: of the linear baseline, in percent."
    more = f" The first {SHOWN} of {len(order)}." if len(order) > SHOWN else ""
    return f'<h2>Labels</h2><p class="note">{note}{more}</p>{_table(head, rows, "tall")}'


def _pairs(labels):
    pairs = labels.get("cooccurrence", [])[:30]
    if not pairs:
        return ""
    most = pairs[0]["rows"]
    rows = [[*map(_name, pair["labels"]), _bar(pair["rows"], most), f"{pair['rows']:,}"] for pair in pairs]
    note = "The pairs with the most rows in common in train. A label and its parent do not count as a pair."
    return (
        f'<h2>Labels that appear together</h2><p class="note">{note}</p>'
        f"{_table(['label', 'and', '=', 'rows#'], rows, 'tall')}"
    )


def _baseline(baseline):
    if not baseline:
        return ""
    titles = {"dev": "dev", "dev_with_thresholds": "dev, one threshold per label", "out_of_fold": "train, out of fold"}
    head, rows = ["rows scored", "level", "micro F1#", "macro F1#", "exact match#"], []
    for kind, title in titles.items():
        if kind not in baseline:
            continue
        for level in [None, *baseline[kind].get("levels", ())]:
            scores = level or baseline[kind]
            name = f"{level['level']} ({level['labels']} labels)" if level else "all"
            cells = (_percent(scores["micro"]["f1"]), _percent(scores["macro"]["f1"]), _percent(scores["accuracy"]))
            rows.append([escape(title), name, *cells])
    note = (
        f"TF-IDF of runs of 1 to 3 characters and one linear SVM per label, trained on {baseline['rows']:,} rows. "
        "Thresholds come only from train, from scores of rows that the model was not trained on. In percent."
    )
    return f'<h2>Linear baseline</h2><p class="note">{note}</p>{_table(head, rows)}'


def _similarity(similarity):
    if not similarity:
        return ""
    text = "<h2>Is dev like train?</h2>"
    if "auc" in similarity:
        auc = f"{similarity['auc']:.2f} (0.5: guessing, 1: certain)"
        text += f"<p>A linear model tells rows of dev from rows of train with an AUC of {auc}.</p>"
    different = similarity["label_shares_that_differ"]
    if not different:
        return text + "<p>No label's share differs by more than chance.</p>"
    rows = [[_name(d["label"]), f"{100 * d['train']:.1f}%", f"{100 * d['dev']:.1f}%"] for d in different[:SHOWN]]
    return text + _table(
        ["labels whose share differs", "in train#", "in dev#"], rows, "tall" if len(rows) > 15 else "narrow"
    )


def _vocabulary(vocabulary):
    if not vocabulary:
        return ""
    rows = [[escape(char), f"U+{ord(char):04X}", count] for char, count in vocabulary["unknown_characters"].items()]
    name = escape(vocabulary["tokenizer"])
    text = f"<p>{vocabulary['unknown_share']:.3%} of all characters are unknown to {name}.</p>"
    table = _table(["character", "code", "count#"], rows, "narrow") if rows else ""
    return f"<h2>Characters unknown to the tokenizer</h2>{text}{table}"
