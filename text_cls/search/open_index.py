"""Opens the index that a bundle names, whichever kind it is."""

from text_cls.cli import UserError
from text_cls.search.embedded_index import EmbeddedIndex


def open_index(folder, manifest, timeout=10.0):
    """The index that a bundle's manifest names.

    Args:
        folder: the bundle's; its files are taken to be those of the manifest (`bundle.open_bundle` checks them).
        manifest: dict with "width" and "index": {"kind": "embedded"} or {"kind": "milvus", "uri", "collection"}.
        timeout: seconds that connecting to a server and a search by it may take.
    Raises:
        UserError: the index is damaged or not there, or its server does not answer (`IndexUnavailable`).
    """
    fields = manifest["index"]
    if fields["kind"] == "embedded":
        index = EmbeddedIndex.open(folder)
    elif fields["kind"] == "milvus":
        from text_cls.search.milvus_index import MilvusIndex

        index = MilvusIndex(fields["uri"], fields["collection"], timeout)
    else:
        raise UserError(f"{folder}: an index of kind {fields['kind']!r} is not known here (embedded, milvus)")
    if index.width != manifest["width"]:
        raise UserError(f"{folder}: the index has vectors of {index.width} numbers, the encoder {manifest['width']}")
    return index
