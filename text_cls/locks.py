"""One writer at a time: a run holds a lock on what it writes, from its start to its end.

The lock of the folder x is the file x.lock beside it, because a writer replaces the folder itself. The file says who
holds the lock. The system frees it when its holder ends, even by a kill; then the file stays, and the next run takes it
over.
"""

import contextlib
import errno
import json
import os
import socket
import sys
import time

from text_cls.cli import UserError, is_main_process, logger
from text_cls.language import reason_of, tr

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # of file systems without locks, such as some network folders
PATIENCE = 0.5  # seconds in which a new holder has written its name, and a run that only tried the lock has freed it


@contextlib.contextmanager
def write_lock(*paths):
    """Holds the locks of the folders and files that a run writes. Of several processes of a run, rank 0 holds them.

    Raises:
        UserError: another process holds one of them. The message names it, and says what to do.
    """
    with contextlib.ExitStack() as stack:
        if is_main_process():
            for path in {os.path.realpath(path): path for path in paths}.values():
                _lock(path, stack)
        yield


def _lock(path, stack):
    """Takes the lock of a path, and gives it back when the stack is closed."""
    file = f"{os.path.realpath(path)}.lock"
    content = _content(file)
    if content and not _holder(content):
        raise UserError(
            tr(
                "{file} is not a lock of these scripts; rename it, or write to another folder than {path}",
                file=file,
                path=path,
            )
        )
    try:
        _make_parents(file, stack)
        lock = try_lock(file)
    except OSError as error:
        reason = reason_of(error)
        if error.errno not in NO_LOCKS and not os.access(path, os.W_OK):
            raise UserError(tr("cannot write {file}: {reason}", file=file, reason=reason)) from error
        logger.warning("%s cannot be locked (%s); make sure that no other process writes to it", path, reason)
        return
    if lock is None:
        holder = _holder(_content(file))
        if not holder and not os.path.exists(file):  # filelock takes this error (ENOENT) for a file being removed
            raise UserError(tr("cannot write {file}: no file can be created there; write to another folder", file=file))
        who = _described(holder) if holder else tr("another process")
        raise UserError(
            tr("{who} is writing to {path}; wait until it has ended, or write to another folder", who=who, path=path)
        )
    stack.callback(unlock, *lock)
    try:
        _sign(file, lock[1])
    except OSError as error:  # the disk is full
        raise UserError(tr("cannot write {file}: {error}", file=file, error=reason_of(error))) from error


def _make_parents(file, stack):
    """Makes the folders that a file needs; when the stack is closed, those that are still empty are removed."""
    missing = [os.path.dirname(file)]
    while not os.path.lexists(missing[-1]):
        missing.append(os.path.dirname(missing[-1]))
    for folder in reversed(missing[:-1]):
        stack.callback(_remove_empty, folder)
    os.makedirs(os.path.dirname(file), exist_ok=True)


def _remove_empty(folder):
    with contextlib.suppress(OSError):
        os.rmdir(folder)


def try_lock(file, wait=PATIENCE):
    """(lock, its open file), or None if another process holds the lock `file` for longer than `wait` seconds.

    Raises:
        OSError: the file cannot be written, or the file system has no locks.
    """
    import filelock

    handles = []
    lock = filelock.FileLock(file, timeout=wait, fallback_to_soft=False, on_acquired=handles.append)
    try:
        lock.acquire()
    except filelock.Timeout:
        return None
    except OSError as error:
        with contextlib.suppress(OSError):
            if error.errno in NO_LOCKS and not os.path.getsize(file):
                os.remove(file)
        raise
    return lock, handles[0]


def unlock(lock, handle):
    """Removes a lock's file and frees the lock, in this order.

    Who opened the file before and gets the lock now sees that the file has no name any more, and tries again (filelock
    does). Windows does not remove an open file; there, filelock removes it after the release, unless it is open again.
    """
    with contextlib.suppress(OSError):
        if os.path.samestat(os.stat(lock.lock_file), os.fstat(handle)):  # else it was removed by hand
            os.remove(lock.lock_file)
    lock.release()


def _sign(file, handle):
    """Writes who holds a lock into its file, and logs who held it before, if that was killed."""
    os.lseek(handle, 0, os.SEEK_SET)
    before, host = _holder(os.read(handle, 4096)[1:]), socket.gethostname()
    if before:
        logger.info("%s was left by %s, which was killed", file, _described(before))
    if before and before["host"] != host:
        # On the same computer, the system would have refused the lock.
        message = tr("If it still runs there, stop one of the two: this file system may not lock across computers")
        logger.warning(message)
    holder = {
        "script": os.path.basename(sys.argv[0]),
        "process": os.getpid(),
        "host": host,
        "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }
    os.lseek(handle, 0, os.SEEK_SET)
    os.ftruncate(handle, 0)
    os.write(handle, f" {json.dumps(holder)}\n".encode())  # Windows locks the first byte, and nobody else can read it
    os.fsync(handle)  # other computers can read it now


def _content(file):
    """What a lock's file says, without the first byte; empty if it cannot be read."""
    try:
        with open(file, "rb", buffering=0) as opened:
            opened.seek(1)
            return opened.read(4096)
    except OSError:
        return b""


def _holder(content):
    """The fields that `_sign` wrote, or None."""
    try:
        fields = json.loads(content)
    except ValueError:
        return None
    return fields if isinstance(fields, dict) and {"script", "process", "host", "since"} <= set(fields) else None


def _described(holder):
    return tr("{script} (process {process} on {host}, since {since})", **holder)
