"""Files written whole or not at all, folders replaced in one step, and their SHA-256."""

import contextlib
import ctypes
import hashlib
import json
import os
import shutil

from text_cls.cli import UserError


def sha256(path):
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def atomic_write(path):
    """A text file (UTF-8, LF) that appears whole or not at all, in place of an older one."""
    if os.path.isdir(path):
        raise UserError(f"{os.path.abspath(path)} is a folder; name a file to write")
    if os.path.exists(path) and not os.path.isfile(path):  # else root would lose /dev/null to a file of that name
        raise UserError(f"{path} is a device or a pipe, which cannot be replaced; name a file to write")
    path = os.path.realpath(path)  # a link stays one
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(temporary, "w", encoding="utf-8", newline="\n") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            os.remove(temporary)


def write_json(path, value):
    with atomic_write(path) as file:
        json.dump(value, file, ensure_ascii=False, indent=2)
        file.write("\n")


@contextlib.contextmanager
def atomic_folder(path):
    """Yields an empty sibling folder to fill; it takes the place of `path`, whole, when the block ends well.

    Of a symbolic link, it takes the place of the folder that the link leads to.
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
    """Puts the folder `new` in the place of `old`; on Linux in one step, so that a reader or a kill never sees neither.

    rename(2) does not replace a folder that holds something; renameat2(2) with RENAME_EXCHANGE swaps the two names.
    """
    if not os.path.exists(old):
        os.rename(new, old)
        return
    with contextlib.suppress(AttributeError, OSError):  # no such call here, or a file system that does not know it
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
    """Finishes a replacement that was cut off between its two renames (see `_exchange`)."""
    aside = f"{os.path.realpath(path)}.old"
    if not os.path.exists(path) and os.path.isdir(aside):
        os.rename(aside, os.path.realpath(path))


def overwrite_problem(path, ours, flag):
    """Why a folder must not be replaced: it holds files that are not ours. None if it may be.

    Args:
        path: the folder, as given by `flag`; it need not exist.
        ours: names of the files that may be lost.
    """
    if os.path.isfile(path):
        return f"{flag} {path}: this is a file; name a folder"
    others = sorted(set(os.listdir(path)) - set(ours)) if os.path.isdir(path) else []
    if not others:
        return None
    shown = ", ".join(others[:5]) + (" ..." if len(others) > 5 else "")
    return f"{flag} {path}: the folder holds {shown}, which would be lost; name a new folder"
