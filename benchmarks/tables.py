"""Cells and lines of the tables that several benchmarks print."""

import statistics


def spread(values, form=".2f"):
    """Mean, lowest and highest: `1.50 (1.00-2.00)`."""
    return f"{statistics.mean(values):{form}} ({min(values):{form}}-{max(values):{form}})"


def cell(values, form=".2f"):
    """`spread` of several values, or the only one; empty without any."""
    return spread(values, form) if len(values) > 1 else "".join(f"{value:{form}}" for value in values)


def gains_over(base, results, gain_width, count_width):
    """Lines of a table: mean and range of each way, and its mean gain over the way `base` on the same seeds.

    The last column counts the seeds on which the last score is above that of `base`.

    Args:
        results: {way: [(micro F1, macro F1) of each seed]}.
        gain_width, count_width: characters of these columns.
    """
    for way, runs in results.items():
        line = f"{way:24}"
        for values, others in zip(zip(*runs), zip(*results[base])):
            gains = [value - other for value, other in zip(values, others)]
            line += f"{spread(values):>23}{statistics.mean(gains):+{gain_width}.2f}"
        yield line + f"{sum(gain > 0 for gain in gains)} of {len(gains)}".rjust(count_width)
