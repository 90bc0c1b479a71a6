"""What a run shows while and after it works: progress with the remaining time, and aligned tables."""

import contextlib
import io
import logging
import os
import sys
import time

from text_cls.cli import logger
from text_cls.language import tr

EVERY_SECONDS = 60  # a log line about the progress, where there is no terminal


@contextlib.contextmanager
def progress_bar(total, unit, initial=0):
    """A progress bar with the remaining time; without a terminal, a log line every minute. Nothing with --quiet.

    On a terminal, log lines appear above the bar. unit: what is counted, in the plural, marked by `N_`.
    """
    if not logger.isEnabledFor(logging.INFO) or sys.stderr.isatty():
        with _bar(total, f" {tr(unit)}", initial, visible=logger.isEnabledFor(logging.INFO)) as bar:
            yield bar
    else:
        yield LoggedProgress(total, unit, initial)


@contextlib.contextmanager
def _bar(total, unit, initial, visible):
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    with contextlib.ExitStack() as stack:
        if visible:
            stack.enter_context(logging_redirect_tqdm([logger]))
        # A container's terminal may have no size at first, and tqdm would draw nothing.
        width = visible and os.get_terminal_size(sys.stderr.fileno()).columns
        shape = {"dynamic_ncols": True} if width else {"ncols": 80, "nrows": 24}
        yield stack.enter_context(tqdm(total=total, unit=unit, initial=initial, disable=not visible, **shape))


class LoggedProgress:
    """What a progress bar says, as log lines. total: None if it is not known."""

    def __init__(self, total, unit, initial=0):
        self.total, self.unit, self.initial, self.done = total, tr(unit), initial, initial
        self.start = self.logged = time.monotonic()

    def update(self, count=1):
        self.done += count
        now = time.monotonic()
        if now - self.logged < EVERY_SECONDS:
            return
        self.logged = now
        if not self.total:
            logger.info("%d %s done", self.done, self.unit)
            return
        left = (now - self.start) * (self.total - self.done) / max(self.done - self.initial, 1)
        logger.info("%d of %d %s done, about %s left", self.done, self.total, self.unit, _in_words(left))

    def set_postfix_str(self, text):
        """The bar's; the log has the remaining time instead."""


def _in_words(seconds):
    minutes = round(seconds / 60)
    if minutes < 60:
        return tr("{minutes} min", minutes=max(minutes, 1))
    return tr("{hours} h {minutes} min", hours=minutes // 60, minutes=minutes % 60)


def log_table(titles, rows):
    """Logs a table, a log line per row, the same on a terminal and without one.

    Args:
        titles: the head of each column, translated.
        rows: lists of as many cells. A column whose cells all begin with a digit or a sign is aligned right.
    """
    for line in aligned(titles, rows):
        logger.info("%s", line)


def aligned(titles, rows):
    """The lines of the table, without a border and without colours.

    By rich, as Chinese letters are two columns wide, which padding like `%-20s` does not know.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    rows = [[str(cell) for cell in row] for row in rows]
    table = Table(box=None, pad_edge=False, header_style=None)
    for column, title in enumerate(titles):
        right = all(row[column][:1] in "+-0123456789" for row in rows)
        table.add_column(title, justify="right" if right else "left", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    stream = io.StringIO()
    Console(file=stream, width=1000, color_system=None).print(table)
    return [line.rstrip() for line in stream.getvalue().splitlines()]
