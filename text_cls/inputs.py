"""Input files that a run reads more than once: a pipe is copied, and a file that changes in between is an error."""

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from typing import BinaryIO

from text_cls.errors import UserError
from text_cls.language import reason_of, tr


class _Run:
    """What a script has opened so far: copies of pipes, {path: temporary file}, and {path: stamp} of files."""

    def __init__(self):
        self.copies, self.stamps = {}, {}


_run = None


@contextlib.contextmanager
def one_run() -> Iterator[None]:
    """In the block, a pipe is read once, and then its copy. `cli.command` runs every script in such a block."""
    global _run
    outer, _run = _run, _Run()
    try:
        yield
    finally:
        for copy in _run.copies.values():
            copy.close()
        _run = outer


@contextlib.contextmanager
def open_input(path: str | os.PathLike, again: bool = False, buffering: int = -1) -> Iterator[BinaryIO]:
    """Opens a file to read its bytes from the beginning.

    Args:
        again: the file must be as it was when this run last opened it.
    Raises:
        OSError: it cannot be opened.
        UserError: it changed while it was read, or since it was last opened; or a pipe cannot be copied.
    """
    path, run = os.fspath(path), _run
    if run and path in run.copies:
        with open(f"/dev/fd/{run.copies[path].fileno()}", "rb", buffering) as file:
            file.seek(0)
            yield file
        return
    with open(path, "rb", buffering) as file:
        is_regular = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
        if is_regular or not run:
            before = _stamp(file)
            if again and run and before != run.stamps.get(path, before):
                raise UserError(changed(path))
            if run:
                run.stamps[path] = before
            yield file
            if is_regular and _stamp(file) != before:
                raise UserError(changed(path))
            return
        run.copies[path] = _copied(path, file)
    with open_input(path, buffering=buffering) as copy:
        yield copy


def changed(path):
    """What to do about a file that did not stay as it was, as a message."""
    return tr("{path} changed while it was read; run this again when nothing writes to it, or on a copy", path=path)


def _stamp(file):
    """What differs once a file was replaced or written to."""
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _copied(path, file):
    """A temporary file with the rest of what `file` yields. It has no name: it disappears even if the run is killed."""
    if int(os.environ.get("PADDLE_TRAINERS_NUM", 1)) > 1:
        raise UserError(
            tr("{path} is not a file, and several processes cannot share what it yields; save it in a file", path=path)
        )
    try:
        with contextlib.ExitStack() as stack:
            copy = stack.enter_context(tempfile.TemporaryFile())
            shutil.copyfileobj(file, copy, 1 << 20)
            copy.flush()
            stack.pop_all()
            return copy
    except OSError as error:
        raise UserError(
            tr(
                "{path} is not a file, and a temporary copy of it cannot be written: {error}. Set TMPDIR to a folder "
                "with more space, or save it in a file",
                path=path,
                error=reason_of(error),
            )
        ) from error
