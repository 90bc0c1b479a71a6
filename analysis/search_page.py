"""The HTML page of `search.py`: search.html."""

from search_results import described, spread, words
from text_cls.html_page import escape, svg, tiles, write_page

STYLE = """
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 340px), 1fr)); gap: 14px; }
.plots p { margin: 0; text-align: center; }
tr.best td { background: var(--tint); font-weight: 600; }
pre { overflow-x: auto; padding: 10px 12px; background: var(--tint); border: 1px solid var(--line); }
"""
COLOURS = {"finished": "#2563a8", "stopped early": "#a35c00"}
LOG_FROM = 10  # values of a flag that differ by this factor are drawn on a log scale


def write_report(path, dataset, results, command):
    """Writes the page of `Results`. command: that uses the best settings."""
    title = f"Search: {dataset}"
    found = "".join(f"<p>{escape(line)}.</p>" for line in [results.cost(), *results.found()])
    parts = [
        f"<h1>{escape(title)}</h1>",
        _tiles(results),
        found,
        f"<h2>Use the best settings</h2><p>{escape(described(results.best.settings))}</p><pre>{escape(command)}</pre>",
        _comparison(results),
        _plots(results),
        _trials(results),
    ]
    write_page(path, title, "\n".join(filter(None, parts)), style=STYLE)


def _tiles(results):
    name = f"{words(results.metric)} on held-out rows"
    figures = [
        (len(results.trials), "trials"),
        (f"{100 * results.start.score:.2f}", f"{name}, defaults"),
        (f"{100 * results.best.score:.2f}", f"{name}, best trial"),
    ]
    seeds, defaults, best = results.gains
    if seeds:
        gain = 100 * (sum(best) - sum(defaults)) / len(seeds)
        figures.append((f"{gain:+.2f}", f"{words(results.report_metric)} gained on rows that no trial has seen"))
    return tiles(figures)


def _table(head, rows):
    """HTML of a table. head: column names, with # at the end for numbers. rows: (class or "", cells as HTML)."""
    kinds = [' class="number"' if name.endswith("#") else "" for name in head]
    top = "".join(f"<th{kind}>{escape(name.rstrip('#'))}</th>" for name, kind in zip(head, kinds))
    body = "".join(
        f'<tr class="{style}">{"".join(f"<td{kind}>{cell}</td>" for cell, kind in zip(cells, kinds))}</tr>'
        for style, cells in rows
    )
    return f'<div class="wide" tabindex="0"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _comparison(results):
    seeds, defaults, best = results.gains
    if not seeds:
        return ""
    rows = [
        (style, [name, *(f"{100 * score:.2f}" for score in scores), spread(scores)])
        for style, name, scores in (("", "defaults", defaults), ("best", "best settings", best))
    ]
    note = f"{words(results.report_metric)} in percent on {results.path}, which no trial has seen."
    head = ["", *(f"seed {seed}#" for seed in seeds), "mean and range#"]
    return f'<h2>Compared with the defaults</h2><p class="note">{escape(note)}</p>{_table(head, rows)}'


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


def _plots(results):
    scored = [trial for trial in results.trials if trial.score is not None]
    drawings = [_progress(results, scored)]
    drawings += [_of_flag(results, scored, name) for name in results.best.settings]
    boxes = "".join(f"<div>{drawing}</div>" for drawing in filter(None, drawings))
    note = "Trials stopped early have the best score they had reached."
    return f'<h2>Trials</h2><p class="note">{note}</p><div class="plots">{boxes}</div>'


def _draw(axes, points):
    """Points of (x, trial)."""
    for end, colour in COLOURS.items():
        chosen = [(x, 100 * trial.score) for x, trial in points if trial.end == end]
        if chosen:
            filled = colour if end == "finished" else "none"
            axes.scatter(*zip(*chosen), s=18, edgecolors=colour, facecolors=filled, label=end)


def _progress(results, scored):
    drawing, axes = _figure("Score of each trial", "trial", words(results.metric))
    _draw(axes, [(trial.number, trial) for trial in scored])
    best, highest = [], 0.0
    for trial in scored:
        if trial.end == "finished":
            highest = max(highest, trial.score)
        best.append((trial.number, 100 * highest))
    axes.step(*zip(*best), where="post", linewidth=1, color="#5b6676", label="best so far")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(fontsize=8, frameon=False)
    return svg(drawing, "Score of each trial, and the best so far")


def _of_flag(results, scored, name):
    """Scores by the value of a flag; nothing if all trials have the same."""
    values = [trial.settings[name] for trial in scored]
    if len(set(values)) < 2:
        return ""
    drawing, axes = _figure(name, "", words(results.metric))
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        if min(values) > 0 and max(values) / min(values) >= LOG_FROM:
            axes.set_xscale("log")
        else:
            axes.locator_params(axis="x", nbins=5)
    else:
        values = [str(value).lower() for value in values]
    _draw(axes, [*zip(values, scored)])
    return svg(drawing, f"Score by {name}")


def _trials(results):
    names = [*results.best.settings]
    order = sorted(results.trials, key=lambda trial: (trial.end != "finished", -(trial.score or 0), trial.number))
    rows = []
    for trial in order:
        end = trial.end if trial.same_as is None else f"as trial {trial.same_as}"
        score = "" if trial.score is None else f"{100 * trial.score:.2f}"
        cells = [trial.number, score, end, f"{trial.seconds / 60:.1f}", *(trial.settings.get(name) for name in names)]
        rows.append(("best" if trial is results.best else "", [escape("" if c is None else c) for c in cells]))
    head = ["trial#", f"{words(results.metric)}#", "end", "minutes#", *(f"{name}#" for name in names)]
    return f"<h2>All trials</h2>{_table(head, rows)}"
