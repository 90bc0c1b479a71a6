"""Who may change a bundle, and what of a Milvus is its own: one index.py at a time, and no copy of a bundle.

A collection is drawn a name when it is made. While a build is under way, a file beside the bundle tells of its
collections: the next build deletes those that are left, and never one that the bundle has not made.
"""

import contextlib
import json
import os
import time

from text_cls.bundle import MANIFEST
from text_cls.cli import UserError, logger
from text_cls.files import write_json
from text_cls.search.index import IndexUnavailable
from text_cls.search.milvus_index import MilvusIndex

GRACE = 10.0  # seconds in which a running server sees that a bundle has another index


def _beside(folder, ending):
    return f"{os.path.realpath(folder)}.{ending}"


@contextlib.contextmanager
def alone(folder):
    """Keeps a second index.py away from the bundle: each reads it, changes it, and writes it whole.

    By a file beside the folder: the folder itself is another one as soon as it is changed.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    if not os.path.isdir(folder):  # of which open_bundle tells
        yield
        return
    path = _beside(folder, "lock")
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}; index.py writes beside the bundle") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.exists(path) and os.path.samestat(os.stat(path), os.fstat(handle)):
                break
        except FileNotFoundError:  # deleted between the two looks
            pass
        except BlockingIOError:
            os.close(handle)
            raise UserError(f"another index.py is changing {folder}; wait until it is through") from None
        os.close(handle)  # who had it has deleted it meanwhile
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):  # somebody else has deleted it
            os.remove(path)
        os.close(handle)


def owned(folder, fields):
    """A manifest's fields of a collection, with the folder of the bundle that may change it."""
    return {**fields, "bundle": os.path.realpath(folder)}


def is_own(folder, fields):
    """Whether a bundle may change and delete the index that its manifest (or the file beside it) tells of."""
    return fields["kind"] == "embedded" or fields.get("bundle") in (None, os.path.realpath(folder))


def copy_problem(folder, fields):
    """What speaks against changing the index that a manifest's fields tell of, or None."""
    if fields is None or is_own(folder, fields):
        return None
    return (
        f"{folder} is a copy of {fields['bundle']}: to change it would change what that one finds in Milvus. Change "
        f"that one and copy it again; or make an index for this one: index.py build --milvus_uri {fields['uri']}; or "
        "give --moved, if the folder was moved or renamed and is no copy"
    )


def remember(folder, collections):
    """Writes down what a build makes, and what it replaces: `tidy` deletes what the bundle does not name then."""
    write_json(_beside(folder, "collections.json"), collections)


def tidy(folder, wait=0.0):
    """Deletes the collections that a build has written down, but for the bundle's. What fails is told.

    Args:
        wait: seconds in which servers may take up the new index first.
    Returns:
        those that are left, which stay written down.
    """
    path, left = _beside(folder, "collections.json"), []
    try:
        with open(path, encoding="utf-8") as file:
            collections = [fields for fields in json.load(file) if is_own(folder, fields)]
        with open(os.path.join(folder, MANIFEST), encoding="utf-8") as file:
            current = (json.load(file)["index"] or {}).get("collection")
    except FileNotFoundError:
        return left
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged; delete it (collections it tells of are then left in Milvus)") from error
    for fields in collections:
        if fields["collection"] != current and not _dropped(fields, wait):
            left.append(fields)
    if left:
        remember(folder, left)
        logger.warning("If their Milvus is gone for good, delete %s; else the next build asks it again", path)
    else:
        os.remove(path)
    return left


def _dropped(fields, wait):
    """Whether a collection is gone: deleted now, or not there."""
    try:
        index = MilvusIndex(fields["uri"], fields["collection"], load=False)
        if wait and not fields["uri"].endswith(".db"):  # a file is open in this process alone
            logger.info("In %g seconds, when servers have taken up the new index, the old one is deleted", wait)
            time.sleep(wait)
        index.drop()
    except IndexUnavailable as error:
        logger.warning(
            "Collection %s is left in %s, for the next build to delete: %s", fields["collection"], fields["uri"], error
        )
        return False
    except UserError:  # no such collection
        pass
    return True
