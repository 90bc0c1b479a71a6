"""Who may change a bundle's Milvus collection: never an index.py that is run on a copy of the bundle.

Each collection gets a random name. During a build, a file beside the bundle lists the collections to delete: those that
the build replaces, and its own in case it fails. The next build deletes what is left, and nothing that is not listed.
"""

import json
import os
import time

from text_cls.bundle import MANIFEST
from text_cls.cli import UserError, logger
from text_cls.files import write_json
from text_cls.language import tr
from text_cls.search.index import IndexUnavailable
from text_cls.search.milvus_index import MilvusIndex

GRACE = 10.0  # seconds that a running server gets to open a bundle's new index before the old one is deleted


def _list_of_collections(folder):
    """Path of the file beside a bundle that lists the collections to delete."""
    return f"{os.path.realpath(folder)}.collections.json"


def with_owner(folder, fields):
    """What a manifest says about an index in Milvus, plus the folder of the bundle that may change it."""
    return {**fields, "bundle": os.path.realpath(folder)}


def is_own(folder, fields):
    """Whether a bundle may change and delete an index. fields: as in its manifest or the file beside it."""
    return fields["kind"] == "embedded" or fields.get("bundle") in (None, os.path.realpath(folder))


def copy_problem(folder, fields):
    """Why a bundle must not change its index; None if it may. fields: those of the index in its manifest."""
    if fields is None or is_own(folder, fields):
        return None
    return tr(
        "{folder} is a copy of {bundle}, and both search the same collection in Milvus. Change the original and copy "
        "it again; or build an index for the copy: index.py build --milvus_uri {uri}; or, if the folder is not a copy "
        "but was moved or renamed, use --moved",
        folder=folder,
        bundle=fields["bundle"],
        uri=fields["uri"],
    )


def record_collections(folder, collections):
    """Writes the file beside the bundle: the collection that a build makes, and those that it replaces."""
    write_json(_list_of_collections(folder), collections)


def delete_old_collections(folder, wait=0.0):
    """Deletes the collections listed beside the bundle, except the one that its manifest names. Logs what fails.

    Args:
        wait: seconds to wait first, so that servers can open the new index.
    Returns:
        the collections that could not be deleted, which stay listed.
    """
    path, left = _list_of_collections(folder), []
    try:
        with open(path, encoding="utf-8") as file:
            collections = [fields for fields in json.load(file) if is_own(folder, fields)]
        with open(os.path.join(folder, MANIFEST), encoding="utf-8") as file:
            current = (json.load(file)["index"] or {}).get("collection")
    except FileNotFoundError:
        return left
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            tr("{path} is damaged; delete it (the collections it lists then stay in Milvus)", path=path)
        ) from error
    for fields in collections:
        if fields["collection"] != current and not _dropped(fields, wait):
            left.append(fields)
    if left:
        record_collections(folder, left)
        logger.warning("If their Milvus is gone for good, delete %s; otherwise the next build tries again", path)
    else:
        os.remove(path)
    return left


def _dropped(fields, wait):
    """Deletes a collection. Returns whether it is gone now, or was before."""
    try:
        index = MilvusIndex(fields["uri"], fields["collection"], load=False)
        if wait and not fields["uri"].endswith(".db"):  # only this process has a file open
            logger.info("The old index is deleted in %g seconds, when servers have opened the new one", wait)
            time.sleep(wait)
        index.drop()
    except IndexUnavailable as error:
        logger.warning(
            "Collection %s stays in %s; the next build tries to delete it: %s",
            fields["collection"],
            fields["uri"],
            error,
        )
        return False
    except UserError:  # no such collection
        pass
    return True
