"""Files and folders that are written whole or not at all, and the SHA-256 of files."""

import contextlib
import ctypes
import errno
import hashlib
import io
import json
import os
import platform
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from text_cls.cli import UserError
from text_cls.inputs import open_input
from text_cls.language import reason_of, tr
from text_cls.locks import try_lock, unlock

WEEK = 7 * 24 * 3600  # seconds
_LINE_ENDS = re.compile("[\r\v\f\x1c-\x1e\x85\u2028\u2029]")

_reading = threading.local()  # .folders: those that `read_unchanged` is reading in this thread
TICK = 0.02  # seconds; file systems on Linux note times in steps of up to 0.01


def sha256(path: str | os.PathLike, again: bool = False) -> str:
    """SHA-256 of a file, as hexadecimal digits. again: as in `inputs.open_input`."""
    digest = hashlib.sha256()
    with open_input(path, again) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


class _Lines(io.TextIOWrapper):
    """A text file in which LF alone ends a line: what other readers take for a line break is escaped as in JSON."""

    def write(self, text):
        return super().write(_LINE_ENDS.sub(lambda match: f"\\u{ord(match[0]):04x}", text))


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[TextIO]:
    """A text file (UTF-8, LF) that appears whole or not at all; an existing file is replaced.

    Other characters that end a line for some readers are escaped (U+2028 as \\u2028), which is right in JSON. Rows of
    texts have spaces there, see `rows.format_row`.

    Raises:
        UserError: the file cannot be written.
    """
    if os.path.isdir(path):
        raise UserError(tr("{path} is a folder; name a file to write", path=os.path.abspath(path)))
    if os.path.exists(path) and not os.path.isfile(path):  # as root, this would replace /dev/null
        raise UserError(tr("{path} is a device or a pipe, which cannot be replaced; name a file to write", path=path))
    path = os.path.realpath(path)  # a symbolic link is kept
    temporary = f"{path}.{_own_name()}.tmp"
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        for name in _names_of_writers(path):
            _remove_unless_open(f"{path}.{name}.tmp")
        with _open_locked(temporary) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if os.name == "nt":  # Windows renames no open file
                file.close()
            os.replace(temporary, path)
    except OSError as error:
        raise UserError(tr("cannot write {path}: {error}", path=path, error=reason_of(error))) from error
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
    if os.path.isfile(path):
        raise UserError(tr("{path} is a file; name a folder", path=path))
    temporary = f"{path}.{_own_name()}.tmp"
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError):  # the file system may have no locks
                if lock := try_lock(f"{temporary}.lock"):
                    stack.callback(unlock, *lock)
            for name in _names_of_writers(path):
                _remove_unless_locked(path, name)
            stack.callback(shutil.rmtree, temporary, ignore_errors=True)
            os.mkdir(temporary)
            yield temporary
            for folder, _, names in os.walk(temporary):
                for name in [*names, "."]:
                    _fsync(os.path.join(folder, name))
            _exchange(temporary, path)
    except OSError as error:
        raise UserError(tr("cannot write {path}: {error}", path=path, error=reason_of(error))) from error


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

    rename(2) does not replace a folder that is not empty; renameat2(2) with RENAME_EXCHANGE swaps the two names. The
    loop is for another writer, which may put its folder there at any time: the last of them stays, whole.
    """
    aside = f"{new.removesuffix('.tmp')}.old"
    while not _renamed(new, old):
        with contextlib.suppress(AttributeError, OSError):  # the system or the file system may lack it
            libc = ctypes.CDLL(None, use_errno=True)
            at_working_folder, exchange = -100, 2
            names = at_working_folder, os.fsencode(new), at_working_folder, os.fsencode(old)
            if libc.renameat2(*names, exchange) == 0:
                return
        shutil.rmtree(aside, ignore_errors=True)  # from the last round
        with contextlib.suppress(FileNotFoundError):
            os.rename(old, aside)
    shutil.rmtree(aside, ignore_errors=True)


def _renamed(new, old):
    """Renames a folder, unless there is one of that name already. Returns whether it did."""
    try:
        os.rename(new, old)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True


def recover_folder(path):
    """Undoes a replacement that was interrupted between its two renames (see `_exchange`)."""
    path = os.path.realpath(path)
    if os.path.exists(path):
        return
    folder, name = os.path.split(path)
    pattern = re.compile(rf"{re.escape(name)}(\.[0-9a-f]{{16}})?\.old")
    names = os.listdir(folder) if os.path.isdir(folder) else []
    asides = [os.path.join(folder, other) for other in names if pattern.fullmatch(other)]
    if asides:
        _renamed(max(asides, key=os.path.getmtime), path)


def remove_folder(path):
    """Deletes a folder. If it is interrupted, the folder still is whole, or has a name that the next writer deletes."""
    path = os.path.realpath(path)
    temporary = f"{path}.{_own_name()}.tmp"
    with contextlib.suppress(OSError):
        os.rename(path, temporary)
    shutil.rmtree(temporary, ignore_errors=True)


# --------------------------------------------------------------------------------------------------------- temporaries


def _own_name():
    """The part of a temporary's name that no other writer has: 8 digits for this computer, and 8 random ones."""
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8] + secrets.token_hex(4)


def _names_of_writers(path):
    """Names (see `_own_name`) in the temporaries beside `path` whose writers may have been killed.

    A lock tells whether a writer is alive, but perhaps not across computers: a network folder may lock on each of them
    separately. So temporaries of another computer count only if nothing was written to them for a week.
    """
    folder, name = os.path.split(path)
    pattern = re.compile(rf"{re.escape(name)}\.([0-9a-f]{{16}})\.(tmp|old)(\.lock)?")
    written = {}
    with contextlib.suppress(OSError):
        for other in os.listdir(folder):
            if match := pattern.fullmatch(other):
                with contextlib.suppress(OSError):
                    when = os.stat(os.path.join(folder, other)).st_mtime
                    written[match[1]] = max(when, written.get(match[1], when))
    own = _own_name()[:8]
    return [writer for writer, when in written.items() if writer.startswith(own) or time.time() - when > WEEK]


def _remove_unless_locked(path, writer):
    """Removes what a writer of the folder `path` left beside it, if it was killed."""
    temporary, aside = f"{path}.{writer}.tmp", f"{path}.{writer}.old"
    with contextlib.suppress(OSError):  # the file system may have no locks
        if lock := try_lock(f"{temporary}.lock", wait=0):
            with contextlib.ExitStack() as stack:
                stack.callback(unlock, *lock)
                recover_folder(path)
                shutil.rmtree(temporary, ignore_errors=True)
                shutil.rmtree(aside, ignore_errors=True)


def _open_locked(path):
    """A new text file that is locked while it is open, so that `_remove_unless_open` keeps it."""
    while True:
        # A path that is not UTF-8 contains surrogates; they are written as JSON escapes them: \udcd6.
        file = _Lines(open(path, "wb"), encoding="utf-8", errors="backslashreplace", newline="\n")
        with contextlib.suppress(ImportError, OSError):  # Windows; a file system without locks
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        if os.path.exists(path):  # else another writer removed it before it was locked
            return file
        file.close()


def _remove_unless_open(path):
    """Removes a temporary file if its writer was killed."""
    with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
        if os.name != "nt":  # Windows removes no file that is open
            import fcntl

            fcntl.flock(stack.enter_context(open(path, "rb+")), fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.remove(path)


# ------------------------------------------------------------------------------------------------------------- reading


def folder_stamp(path: str | os.PathLike) -> tuple:
    """What differs once the folder, or a file in it, was replaced or written to; empty if there is no folder.

    The time of the last change (ctime) is among it, as it cannot be set back: it tells of a file that was written with
    its size and time kept, and of a folder that was replaced and put back. A file that cannot be looked up (a link to
    itself, say) is left out: whoever reads it reports it.
    """
    found, above = [], os.path.abspath(path)
    while above != os.path.dirname(above):
        with contextlib.suppress(FileNotFoundError):
            if os.path.islink(above):  # it may lead elsewhere for a while
                found.append((above, os.lstat(above).st_ino, os.lstat(above).st_ctime_ns))
        above = os.path.dirname(above)
    for folder, _, names in os.walk(os.path.realpath(path)):
        for file in (folder, *(os.path.join(folder, name) for name in names)):
            with contextlib.suppress(OSError):  # replaced meanwhile: the next stamp will differ
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
        tr(
            "{folder} changes again and again while it is read; wait until the script that writes it has ended",
            folder=folder,
        )
    )


def overwrite_problem(path, ours, flag):
    """Why a folder must not be replaced: it contains files that are not ours. None if it may be.

    Args:
        path: the folder, the value of `flag`; it need not exist.
        ours: names of the files that may be replaced.
    """
    if os.path.isfile(path):
        return tr("{flag} {path}: this is a file; name a folder", flag=flag, path=path)
    others = sorted(set(os.listdir(path)) - set(ours)) if os.path.isdir(path) else []
    if not others:
        return None
    shown = ", ".join(others[:5]) + (" ..." if len(others) > 5 else "")
    return tr(
        "{flag} {path}: the folder holds {shown}, which would be lost; name a new folder",
        flag=flag,
        path=path,
        shown=shown,
    )
