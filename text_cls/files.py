"""Files and folders that are written whole or not at all, and the SHA-256 of files."""

import contextlib
import ctypes
import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from text_cls.cli import UserError

_reading = threading.local()  # .folders: those that `read_unchanged` is reading in this thread
TICK = 0.02  # seconds; file systems on Linux note times in steps of up to 0.01


def sha256(path: str | os.PathLike) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[TextIO]:
    """A text file (UTF-8, LF) that appears whole or not at all; an existing file is replaced.

    Raises:
        UserError: the file cannot be written.
    """
    if os.path.isdir(path):
        raise UserError(f"{os.path.abspath(path)} is a folder; name a file to write")
    if os.path.exists(path) and not os.path.isfile(path):  # as root, this would replace /dev/null
        raise UserError(f"{path} is a device or a pipe, which cannot be replaced; name a file to write")
    path = os.path.realpath(path)  # a symbolic link is kept
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        # A path that is not UTF-8 contains surrogates; they are written as JSON escapes them: \udcd6.
        with open(temporary, "w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            os.remove(temporary)


def write_json(path: str | os.PathLike, value) -> None:
    """Writes a value as JSON, whole or not at all."""
    with atomic_write(path) as file:
        json.dump(value, file, ensure_ascii=False, indent=2)
        file.write("\n")


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike) -> Iterator[str]:
    """Yields an empty sibling folder to fill; it replaces `path`, whole, unless the block raises an exception.

    If `path` is a symbolic link, the folder that it leads to is replaced.

    Raises:
        UserError: the folder cannot be written.
    """
    path = os.path.realpath(path)
    temporary = f"{path}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)  # left by a run that was killed
    try:
        os.makedirs(temporary)
        yield temporary
        for folder, _, names in os.walk(temporary):
            for name in [*names, "."]:
                _fsync(os.path.join(folder, name))
        _exchange(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _fsync(path):
    if os.name == "nt":  # Windows opens no folders, and flushes files on close
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _exchange(new, old):
    """Replaces the folder `old` with `new`; on Linux in one step, so that one of them exists even after a kill.

    rename(2) does not replace a folder that is not empty; renameat2(2) with RENAME_EXCHANGE swaps the two names.
    """
    if not os.path.exists(old):
        os.rename(new, old)
        return
    with contextlib.suppress(AttributeError, OSError):  # the system or the file system may lack it
        libc = ctypes.CDLL(None, use_errno=True)
        at_working_folder, exchange = -100, 2
        if libc.renameat2(at_working_folder, os.fsencode(new), at_working_folder, os.fsencode(old), exchange) == 0:
            return
    aside = f"{old}.old"
    shutil.rmtree(aside, ignore_errors=True)
    os.rename(old, aside)
    os.rename(new, old)
    shutil.rmtree(aside)


def recover_folder(path):
    """Undoes a replacement that was interrupted between its two renames (see `_exchange`)."""
    aside = f"{os.path.realpath(path)}.old"
    if not os.path.exists(path) and os.path.isdir(aside):
        os.rename(aside, os.path.realpath(path))


def folder_stamp(path: str | os.PathLike) -> tuple:
    """What differs once the folder, or a file in it, was replaced or written to; empty if there is no folder.

    The time of the last change (ctime) is among it, as it cannot be set back: it tells of a file that was written with
    its size and time kept, and of a folder that was replaced and put back.
    """
    found, above = [], os.path.abspath(path)
    while above != os.path.dirname(above):
        with contextlib.suppress(FileNotFoundError):
            if os.path.islink(above):  # it may lead elsewhere for a while
                found.append((above, os.lstat(above).st_ino, os.lstat(above).st_ctime_ns))
        above = os.path.dirname(above)
    for folder, _, names in os.walk(os.path.realpath(path)):
        for file in (folder, *(os.path.join(folder, name) for name in names)):
            with contextlib.suppress(FileNotFoundError):  # replaced meanwhile: the next stamp will differ
                now = os.stat(file)
                found.append((file, now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns))
    return tuple(sorted(found))


def _settled_stamp(path):
    """`folder_stamp`, not taken in the tick of the file system's clock in which something changed.

    A second change in that tick would get the same time.
    """
    stamp = folder_stamp(path)
    if 0 <= time.time() - max((entry[-1] for entry in stamp), default=0) / 1e9 < TICK:
        time.sleep(TICK)
        stamp = folder_stamp(path)
    return stamp


def read_unchanged(folder: str | os.PathLike, read: Callable[[], Any]) -> Any:
    """What `read()` returns. All that it read belongs to one state of the folder: what it verified, it also loaded.

    A writer may replace the folder (see `atomic_folder`) while its files are read one after the other. Then `read` is
    called again, and what it did before is dropped; so it must have no other effect than its result. Within `read`, a
    call for the same folder leaves this to the outer one.

    Raises:
        UserError: the folder was changed during each of 5 attempts.
    """
    folders, path = vars(_reading).setdefault("folders", set()), os.path.abspath(folder)
    if path in folders:
        return read()
    folders.add(path)
    try:
        return _read_unchanged(folder, read)
    finally:
        folders.remove(path)


def _read_unchanged(folder, read):
    for _ in range(5):
        before = _settled_stamp(folder)
        try:
            result = read()
        except Exception:
            if folder_stamp(folder) == before:
                raise
        else:
            if folder_stamp(folder) == before:
                return result
            del result  # a second model may not fit into memory beside it
    raise UserError(
        f"{folder} changes again and again while it is read; wait until the script that writes it has ended"
    )


def overwrite_problem(path, ours, flag):
    """Why a folder must not be replaced: it contains files that are not ours. None if it may be.

    Args:
        path: the folder, the value of `flag`; it need not exist.
        ours: names of the files that may be replaced.
    """
    if os.path.isfile(path):
        return f"{flag} {path}: this is a file; name a folder"
    others = sorted(set(os.listdir(path)) - set(ours)) if os.path.isdir(path) else []
    if not others:
        return None
    shown = ", ".join(others[:5]) + (" ..." if len(others) > 5 else "")
    return f"{flag} {path}: the folder holds {shown}, which would be lost; name a new folder"
