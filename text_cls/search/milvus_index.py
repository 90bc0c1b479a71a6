"""The index of a retrieval bundle in Milvus: a file of Milvus Lite, or a server; the same code for both.

An entry is a row of a collection: a vector, its label names, and one text of digests of these names. Rows are looked up
by digest, because label names are users' input and must never become part of a filter expression (Milvus Lite has no
filter templates). The digests are one text and not an array, because Milvus Lite goes through arrays row by row in
Python: 5,000 rows take seconds as arrays, and milliseconds as texts.

What Milvus Lite 3.2 lacks: only one process at a time can open a file, so stop a running server before index.py changes
its file; there are no passwords; and reading all rows, as `labels` does, takes nearly a millisecond per row. Both know
FLAT, HNSW, IVF_FLAT and AUTOINDEX, cosine similarity, and deletion by filter.
"""

import contextlib
import hashlib
import logging
import os
import re
import time
from collections import Counter
from urllib.parse import urlsplit

import numpy as np

from text_cls.cli import UserError
from text_cls.language import tr
from text_cls.search.index import MISSING, Found, IndexUnavailable, check_entries, check_queries
from text_cls.search.neighbours import EF, EF_CONSTRUCTION, LINKS

# {type: (build parameters, function from k to search parameters)}. FLAT compares every row. AUTOINDEX is what a
# server's operator chose; in Milvus Lite, HNSW with a short search (recall at 10 of 0.95, against 0.999 for HNSW here).
INDEX_TYPES = {
    "HNSW": ({"M": LINKS, "efConstruction": EF_CONSTRUCTION}, lambda k: {"ef": max(EF, 2 * k)}),
    "FLAT": ({}, lambda k: {}),
    "IVF_FLAT": ({"nlist": 1024}, lambda k: {"nprobe": 64}),
    "AUTOINDEX": ({}, lambda k: {}),
}
MOST_FOUND = 16384  # entries that Milvus returns for one query at most
QUERIES_PER_SEARCH = 256  # in one request; a server refuses requests of more than 64 MB
BATCH_BYTES = 16 << 20  # of the entries inserted by one request, for the same limit
BATCH_ROWS = 4096  # entries inserted by one request at most
LONGEST_LABEL = 65535  # bytes in UTF-8; Milvus' limit for any text
MOST_LABELS = 1024  # of an entry; their digests, one text, must stay below the limit as well
TIMEOUT = 10.0  # seconds for a connection, and for a search
LOAD_TIMEOUT = 600.0  # seconds for a server to read a collection into memory
BUILD_TIMEOUT = 3600.0  # seconds for a request of a build
NOT_LOADED = 101  # Milvus' error code: the collection is not in memory
# By default, gRPC waits longer after every failure, up to two minutes: too long for a server that is back.
RECONNECT = {"grpc.max_reconnect_backoff_ms": 2000}


def uri_problem(uri):
    """What is wrong with a `--milvus_uri`; None if it is valid."""
    if uri.endswith(".db"):
        return None
    try:
        parts = urlsplit(uri)
        is_address = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # half an IPv6 address, or an invalid port
        is_address = False
    if not is_address:
        return tr("--milvus_uri: give a file name that ends in .db, or http://host:19530")
    if parts.username or parts.password:
        return tr(
            "--milvus_uri contains a user or a password, which would be written to manifest.json; set the environment "
            "variable MILVUS_TOKEN to user:password instead"
        )
    return None


def _digest(label):
    return hashlib.blake2b(label.encode("utf-8"), digest_size=16).hexdigest()


def _digests(names):
    return "".join(f"{_digest(name)} " for name in names)


def _having(label):
    """The filter for the entries with a label."""
    return f'digests like "%{_digest(label)}%"'


class MilvusIndex:
    """A `VectorIndex` in a collection of Milvus: `create` makes a new one, the constructor opens an existing one.

    Args:
        uri: FILE.db, or http://host:19530 (https:// for TLS). A server's token or user:password is read from the
            environment variable MILVUS_TOKEN.
        collection: its name.
        timeout: seconds allowed for connecting, and for each search.
        load: whether to wait until the server has the collection in memory; otherwise the first search waits.
    Raises:
        IndexUnavailable: the server does not answer, or refuses; the message says what to do. Any method may raise it.
        UserError: there is no such collection, or it was not made by this class.
    """

    def __init__(self, uri, collection, timeout=TIMEOUT, load=True):
        self.uri, self.collection, self._timeout = uri, collection, timeout
        if uri.endswith(".db") and not os.path.exists(uri):  # Milvus Lite would create an empty one
            raise UserError(tr("{uri}: no such file; build the index: python retrieval_based/index.py build", uri=uri))
        self._client = _connect(uri, timeout)
        with self._asked(tr("open the collection")):
            if not self._client.has_collection(collection, timeout=timeout):
                raise UserError(
                    tr(
                        "{uri} has no collection {collection!r}; build the index: python retrieval_based/index.py "
                        "build",
                        uri=uri,
                        collection=collection,
                    )
                )
            fields = self._client.describe_collection(collection, timeout=timeout)["fields"]
            fields = {field["name"]: field["params"] for field in fields}
            if set(fields) != {"id", "vector", "labels", "digests"}:
                raise UserError(
                    tr(
                        "{uri}: collection {collection!r} was not made by index.py; name another",
                        uri=uri,
                        collection=collection,
                    )
                )
            self.width = int(fields["vector"]["dim"])
            kind = self._client.describe_index(collection, "vector", timeout=timeout)["index_type"]
            self._search_params = INDEX_TYPES.get(kind, INDEX_TYPES["AUTOINDEX"])[1]
        if load:
            # A server that has it in memory answers at once; a server that has just started reads it from disk.
            with self._asked(
                tr(
                    "load the collection within {load_timeout:g} seconds; see its log, and try again later",
                    load_timeout=LOAD_TIMEOUT,
                )
            ):
                self._client.load_collection(collection, timeout=LOAD_TIMEOUT)

    @classmethod
    def create(cls, uri, collection, width, index_type="HNSW", timeout=TIMEOUT):
        """Makes a new, empty collection for vectors of this width. Fill it with `add`, then call `save`.

        Args:
            index_type: a key of `INDEX_TYPES`.
        """
        client = _connect(uri, timeout)
        from pymilvus import DataType

        schema = client.create_schema(auto_id=False)
        schema.add_field("id", DataType.INT64, is_primary=True)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=width)
        names = {"element_type": DataType.VARCHAR, "max_length": LONGEST_LABEL, "max_capacity": MOST_LABELS}
        schema.add_field("labels", DataType.ARRAY, **names)
        schema.add_field("digests", DataType.VARCHAR, max_length=MOST_LABELS * len(_digests([""])))
        index = client.prepare_index_params()
        index.add_index("vector", index_type, "vector", metric_type="COSINE", params=INDEX_TYPES[index_type][0])
        with _asked(uri, tr("make a collection")):
            # Strong: a search sees everything that was added or removed before it.
            client.create_collection(
                collection, schema=schema, index_params=index, consistency_level="Strong", timeout=timeout
            )
            # Milvus Lite indexes a loaded collection in a thread of its own and does not report when that is done. An
            # unloaded collection is indexed while it is loaded, and loading waits for that.
            client.release_collection(collection, timeout=timeout)
        return cls(uri, collection, timeout, load=False)

    def __len__(self):
        with self._asked(tr("count the entries")):
            return self._count("")

    def _count(self, expression):
        rows = self._do("query", filter=expression, output_fields=["count(*)"], timeout=self._timeout)
        return int(rows[0]["count(*)"])

    def add(self, vectors, labels):
        vectors, labels = check_entries(vectors, labels, self.width)
        for names in labels:
            if len(names) > MOST_LABELS or any(len(name.encode("utf-8")) > LONGEST_LABEL for name in names):
                raise UserError(
                    tr(
                        "Milvus takes at most {most_labels} labels per entry, of {longest_label} bytes each",
                        most_labels=MOST_LABELS,
                        longest_label=LONGEST_LABEL,
                    )
                )
        # Random, so that processes that add at the same time need no common counter.
        ids = np.random.default_rng().integers(1, 2**63 - 1, len(labels)).tolist()
        rows, size = [], 0
        for row in map(_row, ids, vectors, labels):
            rows.append(row)
            size += 4 * self.width + sum(len(name.encode("utf-8")) + 64 for name in row["labels"])
            if size >= BATCH_BYTES or len(rows) == BATCH_ROWS:
                self._insert(rows)
                rows, size = [], 0
        if rows:
            self._insert(rows)

    def _insert(self, rows):
        with self._asked(tr("add entries")):
            self._do("insert", rows, timeout=BUILD_TIMEOUT)

    def save(self):
        """Has Milvus index all entries, and waits. Otherwise it indexes them later, and compares them until then."""
        end = time.monotonic() + BUILD_TIMEOUT
        with self._asked(tr("index the entries")):
            self._do("flush", timeout=BUILD_TIMEOUT)
            while self._do("describe_index", "vector", timeout=self._timeout)["pending_index_rows"]:
                if time.monotonic() > end:
                    raise IndexUnavailable(
                        tr(
                            "Milvus at {uri} has not indexed all entries after {build_timeout:g} seconds",
                            uri=self.uri,
                            build_timeout=BUILD_TIMEOUT,
                        )
                    )
                time.sleep(0.2)
            self._client.load_collection(self.collection, timeout=BUILD_TIMEOUT)

    def remove(self, label):
        with self._asked(tr("remove a label")):
            rows = list(self._rows(["id", "labels"], filter=_having(label)))
            count, shared = len(rows), [row["id"] for row in rows if len(row["labels"]) > 1]
            for start in range(0, len(shared), BATCH_ROWS):
                ids = shared[start : start + BATCH_ROWS]
                rows = self._do("get", ids, ["id", "vector", "labels"], timeout=BUILD_TIMEOUT)
                for row in rows:
                    row["labels"] = [name for name in row["labels"] if name != label]
                rows = [_row(row["id"], row["vector"], row["labels"]) for row in rows]
                self._do("upsert", rows, timeout=BUILD_TIMEOUT)
            self._do("delete", filter=_having(label), timeout=BUILD_TIMEOUT)
        return count

    def _rows(self, fields, filter=""):
        """Yields all rows, or those that match a filter, as dicts."""
        iterator = self._do(
            "query_iterator", batch_size=MOST_FOUND, filter=filter, output_fields=fields, timeout=BUILD_TIMEOUT
        )
        try:
            while rows := iterator.next():
                yield from rows
        finally:
            iterator.close()

    def count(self, label):
        with self._asked(tr("look up a label")):
            return self._count(_having(label))

    def labels(self):
        counts = Counter()
        with self._asked(tr("list the labels")):
            for row in self._rows(["labels"]):
                counts.update(row["labels"])
        return dict(sorted(counts.items()))

    def search(self, queries, k):
        """As `VectorIndex.search`, with at most `MOST_FOUND` entries per query."""
        queries, k, hits = np.asarray(queries, np.float32), min(k, MOST_FOUND), []
        check_queries(queries, self.width)
        with self._asked("search"):
            for start in range(0, len(queries), QUERIES_PER_SEARCH):
                hits += self._do(
                    "search",
                    data=queries[start : start + QUERIES_PER_SEARCH],
                    anns_field="vector",
                    limit=k,
                    output_fields=["labels"],
                    search_params={"params": self._search_params(k)},
                    timeout=self._timeout,
                )
        most = max(map(len, hits), default=0)
        cosines, labels = np.full((len(queries), most), MISSING, np.float32), []
        for i, row in enumerate(hits):
            cosines[i, : len(row)] = [hit["distance"] for hit in row]
            labels.append([tuple(hit["entity"]["labels"]) for hit in row] + [()] * (most - len(row)))
        return Found(np.clip(cosines, -1, 1), labels)

    def drop(self):
        """Deletes the collection and everything in it."""
        with self._asked(tr("drop the collection")):
            self._do("drop_collection", timeout=self._timeout)

    def _do(self, method, *args, **kwargs):
        """Calls a method of the client on the collection. Loads that first if a restarted server has not done so."""
        from pymilvus.exceptions import MilvusException

        call = getattr(self._client, method)
        try:
            return call(self.collection, *args, **kwargs)
        except MilvusException as error:
            if error.code != NOT_LOADED:
                raise
            self._client.load_collection(self.collection, timeout=self._timeout)
            return call(self.collection, *args, **kwargs)

    def _asked(self, what):
        return _asked(self.uri, what)


def _row(number, vector, labels):
    return {"id": number, "vector": vector, "labels": list(labels), "digests": _digests(labels)}


@contextlib.contextmanager
def _asked(uri, what):
    """Turns what Milvus raises in the block into an IndexUnavailable."""
    from grpc import RpcError
    from pymilvus.exceptions import MilvusException

    try:
        yield
    except (MilvusException, RpcError) as error:
        reason = re.sub(r"\s+", " ", str(getattr(error, "message", "") or error))[:300]
        raise IndexUnavailable(
            tr("Milvus at {uri} did not {what}: {reason}", uri=uri, what=what, reason=reason)
        ) from error


def check_answers(uri):
    """Raises IndexUnavailable or UserError if there is no Milvus at this address."""
    _connect(uri, TIMEOUT)


def _connect(uri, timeout):
    """A MilvusClient without logging: pymilvus and Milvus Lite also log the traceback of everything they raise."""
    if problem := uri_problem(uri):
        raise UserError(problem)
    pymilvus = _import_pymilvus()
    from pymilvus.exceptions import ConnectionConfigException, MilvusException

    for name in ("pymilvus", "milvus_lite"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        return pymilvus.MilvusClient(
            uri, token=os.environ.get("MILVUS_TOKEN", ""), timeout=timeout, grpc_options=RECONNECT
        )
    except ConnectionConfigException as error:
        raise IndexUnavailable(f"--milvus_uri {uri}: {_why_not_open(uri) or error.message}") from error
    except MilvusException as error:
        raise IndexUnavailable(
            tr(
                "Milvus at {uri} does not answer ({timeout:g} seconds). Check that it runs (curl "
                "http://HOST:9091/healthz on its machine), that the port is reachable, and that MILVUS_TOKEN is set "
                "if the server requires it",
                uri=uri,
                timeout=timeout,
            )
        ) from error


def _import_pymilvus():
    """Imports pymilvus, with MILVUS_URI hidden: if that variable is not a web address, the import fails."""
    before = os.environ.get("MILVUS_URI")
    os.environ["MILVUS_URI"] = ""
    try:
        import pymilvus
    finally:
        os.environ.pop("MILVUS_URI")
        if before is not None:
            os.environ["MILVUS_URI"] = before
    return pymilvus


def _why_not_open(path):
    """Why Milvus Lite cannot open a file, which pymilvus does not report; None if it can."""
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        return tr("there is no folder {folder}; create it first", folder=folder)
    import milvus_lite

    try:
        milvus_lite.MilvusLite(path).close()
    except milvus_lite.exceptions.DataDirLockedError:
        return tr(
            "another process has it open, and Milvus Lite allows only one. Stop that process (a server?), or use a "
            "Milvus server: --milvus_uri http://host:19530"
        )
    except (milvus_lite.exceptions.MilvusLiteError, OSError, ValueError) as error:
        return tr("Milvus Lite cannot open it: {error}", error=error)
    return None
