"""The HTML page of `search.py`: search.html."""

from search_results import described, spread, words
from text_cls.html_page import escape, say, section, svg, table, tiles, write_page
from text_cls.language import tr

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
    title = tr("Search: {dataset}", dataset=dataset)
    write_page(path, title, lambda: _body(title, results, command), style=STYLE)


def _body(title, results, command):
    found = "".join(f"<p>{escape(line)}{say('.')}</p>" for line in [results.cost(), *results.found()])
    parts = [
        f"<h1>{escape(title)}</h1>",
        _tiles(results),
        found,
        section(
            tr("Use the best settings"),
            f"<p>{escape(described(results.best.settings))}</p><pre>{escape(command)}</pre>",
        ),
        _comparison(results),
        _plots(results),
        _trials(results),
    ]
    return "\n".join(filter(None, parts))


def _tiles(results):
    metric = words(results.metric)
    figures = [
        (len(results.trials), tr("trials")),
        (f"{100 * results.start.score:.2f}", tr("{metric} on held-out rows, defaults", metric=metric)),
        (f"{100 * results.best.score:.2f}", tr("{metric} on held-out rows, best trial", metric=metric)),
    ]
    seeds, defaults, best = results.gains
    if seeds:
        gain, reported = 100 * (sum(best) - sum(defaults)) / len(seeds), words(results.report_metric)
        figures.append((f"{gain:+.2f}", tr("{metric} gained on rows that no trial has seen", metric=reported)))
    return tiles(figures)


def _comparison(results):
    seeds, defaults, best = results.gains
    if not seeds:
        return ""
    rows = [
        [escape(name), *(f"{100 * score:.2f}" for score in scores), escape(spread(scores))]
        for name, scores in ((tr("defaults"), defaults), (tr("best settings"), best))
    ]
    metric = words(results.report_metric)
    note = tr("{metric} in percent on {path}, which no trial has seen.", metric=metric, path=results.path)
    title = tr("Compared with the defaults")
    head = ["", *(tr("seed {seed}", seed=seed) + "#" for seed in seeds), tr("mean and range") + "#"]
    return section(title, table(title, head, rows, of_rows=("", "best")), note=note)


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
    note = tr("Trials stopped early have the best score they had reached.")
    return section(tr("Trials"), f'<div class="plots">{boxes}</div>', note=note)


def _draw(axes, points):
    """Points of (x, trial)."""
    for end, colour in COLOURS.items():
        chosen = [(x, 100 * trial.score) for x, trial in points if trial.end == end]
        if chosen:
            filled = colour if end == "finished" else "none"
            axes.scatter(*zip(*chosen), s=18, edgecolors=colour, facecolors=filled, label=tr(end))


def _progress(results, scored):
    drawing, axes = _figure(tr("Score of each trial"), tr("trial"), words(results.metric))
    _draw(axes, [(trial.number, trial) for trial in scored])
    best, highest = [], 0.0
    for trial in scored:
        if trial.end == "finished":
            highest = max(highest, trial.score)
        best.append((trial.number, 100 * highest))
    axes.step(*zip(*best), where="post", linewidth=1, color="#5b6676", label=tr("best so far"))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(fontsize=8, frameon=False)
    return svg(drawing, tr("Score of each trial, and the best so far"))


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
            whole = all(isinstance(value, int) for value in values)
            axes.xaxis.get_major_locator().set_params(nbins=5, integer=whole)
    else:
        values = [str(value).lower() for value in values]
    _draw(axes, [*zip(values, scored)])
    return svg(drawing, tr("Score by {name}", name=name))


def _trials(results):
    names = [*results.best.settings]
    order = sorted(results.trials, key=lambda trial: (trial.end != "finished", -(trial.score or 0), trial.number))
    rows = []
    for trial in order:
        end = tr(trial.end) if trial.same_as is None else tr("as trial {number}", number=trial.same_as)
        score = "" if trial.score is None else f"{100 * trial.score:.2f}"
        cells = [trial.number, score, end, f"{trial.seconds / 60:.1f}", *(trial.settings.get(name) for name in names)]
        rows.append([escape("" if cell is None else cell) for cell in cells])
    head = [tr("trial") + "#", words(results.metric) + "#", tr("end"), tr("minutes") + "#", *(f"{n}#" for n in names)]
    title = tr("All trials")
    return section(title, table(title, head, rows, of_rows=["best" if t is results.best else "" for t in order]))
