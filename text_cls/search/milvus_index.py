"""The index of a retrieval bundle in Milvus: a file with Milvus Lite, or a server; one code for both.

An entry is a row of a collection: a vector, its label names, and their digests in one text. Rows are looked up by
digest: label names are users' input, and never part of a filter expression (Milvus Lite knows no templates for them).
A text, since Milvus Lite goes through arrays row by row in Python: 5,000 rows take it seconds, and texts milliseconds.

What Milvus Lite 3.2 does not do that a server does: a file is opened by one process at a time, so that a running server
has to be stopped before index.py changes its file; there is no password; and to read all rows, as `labels` does, takes
nearly a millisecond each. Both know FLAT, HNSW, IVF_FLAT and AUTOINDEX, cosines, and deleting by filter.
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
from text_cls.search.index import MISSING, Found, IndexUnavailable, check_entries, check_queries
from text_cls.search.neighbours import EF, EF_CONSTRUCTION, LINKS

# {type: (what it is built with, what it is searched with)}. FLAT compares every row. AUTOINDEX is what a server's
# operator set; in Milvus Lite HNSW with a short search (recall at 10 of 0.95 where HNSW as here has 0.999).
INDEX_TYPES = {
    "HNSW": ({"M": LINKS, "efConstruction": EF_CONSTRUCTION}, lambda k: {"ef": max(EF, 2 * k)}),
    "FLAT": ({}, lambda k: {}),
    "IVF_FLAT": ({"nlist": 1024}, lambda k: {"nprobe": 64}),
    "AUTOINDEX": ({}, lambda k: {}),
}
MOST_FOUND = 16384  # Milvus answers no more to a query
QUERIES, BATCH_BYTES, BATCH_ROWS = 256, 16 << 20, 4096  # of one request; a server refuses one of more than 64 MB
LONGEST_LABEL, MOST_LABELS = 65535, 1024  # bytes, and labels of an entry; Milvus' limit is 65,535 bytes of any text
TIMEOUT, LOAD_TIMEOUT, BUILD_TIMEOUT = 10.0, 600.0, 3600.0  # seconds
NOT_LOADED = 101  # Milvus' code
# gRPC waits longer after every failure, up to two minutes: too long for a server that is back.
RECONNECT = {"grpc.max_reconnect_backoff_ms": 2000}


def uri_problem(uri):
    """What is wrong with a `--milvus_uri`, or None."""
    if uri.endswith(".db"):
        return None
    try:
        parts = urlsplit(uri)
        is_address = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # half an IPv6 address, or a port that is none
        is_address = False
    if not is_address:
        return "--milvus_uri: give a file's name that ends in .db, or http://host:19530"
    if parts.username or parts.password:
        return (
            "--milvus_uri holds a user or a password, and would stand in manifest.json; "
            "set the environment variable MILVUS_TOKEN to user:password instead"
        )
    return None


def _digest(label):
    return hashlib.blake2b(label.encode("utf-8"), digest_size=16).hexdigest()


def _digests(names):
    return "".join(f"{_digest(name)} " for name in names)


def _having(label):
    return f'digests like "%{_digest(label)}%"'


class MilvusIndex:
    """A collection of a Milvus; made by `create`, opened by the constructor.

    Args:
        uri: FILE.db, or http://host:19530 (https:// for TLS). The token or user:password of a server is taken from the
            environment variable MILVUS_TOKEN.
        collection: its name.
        timeout: seconds that connecting and searching may take.
        load: whether to wait until the server has it in memory; if not, the first search does.
    Raises:
        IndexUnavailable: the server does not answer, or refuses; the text says what to do. Every method may raise it.
        UserError: there is no such collection, or it is none of ours.
    """

    def __init__(self, uri, collection, timeout=TIMEOUT, load=True):
        self.uri, self.collection, self._timeout = uri, collection, timeout
        if uri.endswith(".db") and not os.path.exists(uri):  # Milvus Lite would make an empty one
            raise UserError(f"{uri}: there is no such file; build the index: python retrieval_based/index.py build")
        self._client = _connect(uri, timeout)
        with self._asked("open the collection"):
            if not self._client.has_collection(collection, timeout=timeout):
                raise UserError(
                    f"{uri} has no collection {collection!r}; build the index: python retrieval_based/index.py build"
                )
            fields = self._client.describe_collection(collection, timeout=timeout)["fields"]
            fields = {field["name"]: field["params"] for field in fields}
            if set(fields) != {"id", "vector", "labels", "digests"}:
                raise UserError(f"{uri}: collection {collection!r} is not one of this suite's; name another")
            self.width = int(fields["vector"]["dim"])
            kind = self._client.describe_index(collection, "vector", timeout=timeout)["index_type"]
            self._search_params = INDEX_TYPES.get(kind, INDEX_TYPES["AUTOINDEX"])[1]
        if load:
            # A server that has it in memory answers at once; one that was just started reads it from its disks.
            with self._asked(f"load the collection within {LOAD_TIMEOUT:g} seconds; see its log, and try again later"):
                self._client.load_collection(collection, timeout=LOAD_TIMEOUT)

    @classmethod
    def create(cls, uri, collection, width, index_type="HNSW", timeout=TIMEOUT):
        """A new, empty collection of vectors of a width. Fill it by `add`, then `save` it.

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
        with _asked(uri, "make a collection"):
            # Strong: a search sees what was added and removed before it.
            client.create_collection(
                collection, schema=schema, index_params=index, consistency_level="Strong", timeout=timeout
            )
            # Milvus Lite indexes what a loaded collection is given in a thread of its own, and does not tell when it is
            # through; of one that is not loaded it is when that is loaded.
            client.release_collection(collection, timeout=timeout)
        return cls(uri, collection, timeout, load=False)

    def __len__(self):
        with self._asked("count the entries"):
            return self._count("")

    def _count(self, expression):
        rows = self._do("query", filter=expression, output_fields=["count(*)"], timeout=self._timeout)
        return int(rows[0]["count(*)"])

    def add(self, vectors, labels):
        vectors, labels = check_entries(vectors, labels, self.width)
        for names in labels:
            if len(names) > MOST_LABELS or any(len(name.encode("utf-8")) > LONGEST_LABEL for name in names):
                raise UserError(f"Milvus takes {MOST_LABELS} labels an entry of {LONGEST_LABEL} bytes each at most")
        # Drawn, so that nobody has to count together with others who add.
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
        with self._asked("add entries"):
            self._do("insert", rows, timeout=BUILD_TIMEOUT)

    def save(self):
        """Has what was added indexed, and waits for it; without, Milvus does so later, and compares until then."""
        end = time.monotonic() + BUILD_TIMEOUT
        with self._asked("index the entries"):
            self._do("flush", timeout=BUILD_TIMEOUT)
            while self._do("describe_index", "vector", timeout=self._timeout)["pending_index_rows"]:
                if time.monotonic() > end:
                    raise IndexUnavailable(f"Milvus at {self.uri} has not indexed all after {BUILD_TIMEOUT:g} seconds")
                time.sleep(0.2)
            self._client.load_collection(self.collection, timeout=BUILD_TIMEOUT)

    def remove(self, label):
        with self._asked("remove a label"):
            rows = list(self._rows(["id", "labels"], filter=_having(label)))
            count, shared = len(rows), [row["id"] for row in rows if len(row["labels"]) > 1]
            for start in range(0, len(shared), BATCH_ROWS):
                ids = shared[start : start + BATCH_ROWS]
                rows = self._do("get", ids, ["id", "vector", "labels"], timeout=BUILD_TIMEOUT)
                kept = [(row["id"], row["vector"], [n for n in row["labels"] if n != label]) for row in rows]
                self._do("upsert", [_row(*one) for one in kept], timeout=BUILD_TIMEOUT)
            self._do("delete", filter=_having(label), timeout=BUILD_TIMEOUT)
        return count

    def _rows(self, fields, filter=""):
        """All rows, or those of a filter, as a stream of dicts."""
        iterator = self._do(
            "query_iterator", batch_size=MOST_FOUND, filter=filter, output_fields=fields, timeout=BUILD_TIMEOUT
        )
        try:
            while rows := iterator.next():
                yield from rows
        finally:
            iterator.close()

    def count(self, label):
        with self._asked("look a label up"):
            return self._count(_having(label))

    def labels(self):
        counts = Counter()
        with self._asked("list the labels"):
            for row in self._rows(["labels"]):
                counts.update(row["labels"])
        return dict(sorted(counts.items()))

    def search(self, queries, k):
        """As `VectorIndex.search`, of no more than `MOST_FOUND` entries a query."""
        queries, k, hits = np.asarray(queries, np.float32), min(k, MOST_FOUND), []
        check_queries(queries, self.width)
        with self._asked("search"):
            for start in range(0, len(queries), QUERIES):
                hits += self._do(
                    "search",
                    data=queries[start : start + QUERIES],
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
        """Deletes the collection with all that is in it."""
        with self._asked("drop the collection"):
            self._do("drop_collection", timeout=self._timeout)

    def _do(self, method, *args, **kwargs):
        """Calls a method of the client on the collection, which a server may have forgotten to load when it started."""
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
    """Words what Milvus raises in the block."""
    from grpc import RpcError
    from pymilvus.exceptions import MilvusException

    try:
        yield
    except (MilvusException, RpcError) as error:
        reason = re.sub(r"\s+", " ", str(getattr(error, "message", "") or error))[:300]
        raise IndexUnavailable(f"Milvus at {uri} did not {what}: {reason}") from error


def check_answers(uri):
    """Raises IndexUnavailable, or UserError, where a Milvus is not to be had."""
    _connect(uri, TIMEOUT)


def _connect(uri, timeout):
    """A MilvusClient, silent: pymilvus and Milvus Lite log each fault with its traceback, beside what they raise."""
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
            f"Milvus at {uri} does not answer ({timeout:g} seconds). See that it runs (curl http://HOST:9091/healthz "
            "on its machine), that the port is reachable, and that MILVUS_TOKEN is set if it asks for one"
        ) from error


def _import_pymilvus():
    """pymilvus. A MILVUS_URI of the environment, or of a .env file, that is no web address ends its import."""
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
    """Why Milvus Lite does not open a file, in words, or None where it would. It keeps the reason to itself."""
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        return f"there is no folder {folder}; make it first"
    import milvus_lite

    try:
        milvus_lite.MilvusLite(path).close()
    except milvus_lite.exceptions.DataDirLockedError:
        return (
            "another process has it open, and Milvus Lite serves one at a time. Stop that process (a server?), or use "
            "a Milvus server: --milvus_uri http://host:19530"
        )
    except (milvus_lite.exceptions.MilvusLiteError, OSError, ValueError) as error:
        return f"Milvus Lite does not open it: {error}"
    return None
