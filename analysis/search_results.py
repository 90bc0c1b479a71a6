"""What a search found: the best settings, what they gain over the defaults, and what it cost."""

import shlex
import statistics
import time
from dataclasses import dataclass, field

from search_space import config_lines, given, words_of
from text_cls.cli import logger
from text_cls.files import atomic_write
from text_cls.language import N_, tr

ENDS = {
    "COMPLETE": N_("finished"),
    "PRUNED": N_("stopped early"),
    "FAIL": N_("failed"),
    "RUNNING": N_("running"),
    "WAITING": N_("waiting"),
}


@dataclass
class Trial:
    """A trial for the report. score: on the held-out rows, None if it has not finished. seconds: of training."""

    number: int
    settings: dict
    end: str
    score: float | None
    seconds: float
    same_as: int | None


@dataclass
class Results:
    """A search. Scores are fractions.

    Attributes:
        metric, report_metric: names of what the trials maximised, and of what the comparison reports.
        trials: [`Trial`], of which `best` and `start` are two. start: the one with the default settings.
        held_out: number of held-out rows.
        gains: (seeds, scores of the defaults, scores of the best settings) on dev, three lists; empty without a
            comparison. path: of these rows.
    """

    metric: str
    report_metric: str
    trials: list
    best: Trial
    start: Trial
    held_out: int
    path: str
    gains: tuple = field(default_factory=lambda: ([], [], []))

    def cost(self):
        """A sentence on how many trials there were, and how long they took."""
        counts = {}
        for trial in self.trials:
            end = "repeated" if trial.same_as is not None else trial.end
            counts[end] = counts.get(end, 0) + 1
        ends = ", ".join(f"{count} {end}" for end, count in counts.items())
        hours = sum(trial.seconds for trial in self.trials) / 3600
        trials = "1 trial" if len(self.trials) == 1 else f"{len(self.trials)} trials"
        return tr("{trials} ({ends}) took {hours:.2f} hours", trials=trials, ends=ends, hours=hours)

    def found(self):
        """Yields sentences: the scores on the held-out rows, and the comparison on dev."""
        name = tr("On the {held_out} held-out rows, {words}", held_out=self.held_out, words=words(self.metric))
        if self.best is self.start:
            yield tr("No trial beats the defaults. {name}: {score:.2f}", name=name, score=100 * self.start.score)
            return
        yield (
            tr(
                "{name}: {score:.2f} with the settings of trial {number}, {default:.2f} with the defaults. These rows "
                "chose the settings, so the gain flatters",
                name=name,
                score=100 * self.best.score,
                number=self.best.number,
                default=100 * self.start.score,
            )
        )
        seeds, defaults, best = self.gains
        if not seeds:
            return
        gains = [100 * (score - before) for before, score in zip(defaults, best)]
        yield (
            tr(
                "On {path}, which no trial has seen, {words} with {which} {seeds}: defaults {defaults}, best settings "
                "{best}, gain {mean:+.2f} ({least:+.2f} to {most:+.2f})",
                path=self.path,
                words=words(self.report_metric),
                which=tr("seeds") if len(seeds) > 1 else tr("seed"),
                seeds=", ".join(map(str, seeds)),
                defaults=spread(defaults),
                best=spread(best),
                mean=statistics.mean(gains),
                least=min(gains),
                most=max(gains),
            )
        )
        yield self.verdict()

    def verdict(self):
        """Whether the gain on dev is more than the spread over the seeds."""
        _, defaults, best = self.gains
        gain = statistics.mean(best) - statistics.mean(defaults)
        range_ = max(max(each) - min(each) for each in (defaults, best))
        if len(defaults) < 2:
            return tr("One seed shows no spread: the gain may be chance")
        if gain > range_:
            return tr("The gain is more than the spread over the seeds ({range:.2f})", range=100 * range_)
        return tr(
            "The gain is not more than the spread over the seeds ({range:.2f}): it may be chance", range=100 * range_
        )


def words(metric):
    return metric.replace("_f1", " F1").replace("_", " ")


def spread(scores):
    """Mean and range in percent: 80.10 (79.50 to 80.80)."""
    mean, least, most = (100 * of(scores) for of in (statistics.mean, min, max))
    return f"{mean:.2f} ({least:.2f} to {most:.2f})"


def described(settings):
    """Settings in one line."""
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def log(results):
    logger.info("%s", results.cost())
    for line in results.found():
        logger.info("%s", line)
    logger.info("Settings of trial %d: %s", results.best.number, described(results.best.settings))


def command_for(args, best, config):
    """The command that uses the best settings. config: path of the file that holds them, or None."""
    if config:
        return tr("python train.py --config {quote}", quote=shlex.quote(str(config)))
    values = {**args.values, **best.settings, "output_dir": "prune"}
    return shlex.join(["python", "prune.py", *words_of(args.flags, values)])


def write_config(path, args, results):
    """Writes best.yaml: the flags that were given to all trials, and the settings of the best."""
    values = given(args.flags, {**args.values, **results.best.settings})
    with atomic_write(path) as file:
        file.write(f"# {time.strftime('%Y-%m-%d')}, analysis/search.py. {results.cost()}.\n")
        file.writelines(f"# {line}.\n" for line in results.found())
        file.writelines(config_lines(args.flags, values))
