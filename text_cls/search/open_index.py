"""Opens the index that a bundle's manifest names, embedded or in Milvus."""

from text_cls.cli import UserError
from text_cls.language import tr
from text_cls.search.embedded_index import EmbeddedIndex
from text_cls.search.index import VectorIndex


def open_index(folder: str, manifest: dict, timeout: float = 10.0) -> VectorIndex:
    """Opens the index that a bundle's manifest names.

    Args:
        folder: the bundle's. Its files are not checked against the manifest; `bundle.open_bundle` does that.
        manifest: dict with "width" and "index": {"kind": "embedded"} or {"kind": "milvus", "uri", "collection"}.
        timeout: seconds allowed for connecting to a server, and for each search on it.
    Raises:
        UserError: the index is missing or damaged, or its server does not answer (`IndexUnavailable`).
    """
    fields = manifest["index"]
    if fields["kind"] == "embedded":
        index = EmbeddedIndex.open(folder)
    elif fields["kind"] == "milvus":
        from text_cls.search.milvus_index import MilvusIndex

        index = MilvusIndex(fields["uri"], fields["collection"], timeout)
    else:
        raise UserError(
            tr("{folder}: unknown kind of index {kind!r} (known: embedded, milvus)", folder=folder, kind=fields["kind"])
        )
    if index.width != manifest["width"]:
        raise UserError(
            tr(
                "{folder}: the index has vectors of {found} numbers, the encoder {wanted}",
                folder=folder,
                found=index.width,
                wanted=manifest["width"],
            )
        )
    return index
