"""A retrieval bundle on ONNX Runtime: texts become vectors, labels are those of the nearest entries of its index.

from retrieval_predictor import open_predictor

predictor = open_predictor("output")  # a bundle of either kind
for names, scores in predictor.predict(["今日大盘下跌2%", "央行发布金融数据"]):
    print(names, scores)
"""

import copy

from text_cls.bundle import DECISION, RETRIEVAL, open_bundle
from text_cls.cli import UserError, logger
from text_cls.search.embedded_index import ENTRIES, GRAPH, VECTORS
from text_cls.search.label_scores import label_scores
from text_cls.search.open_index import open_index
from text_cls.serving.predictor import Predictor

CHANGING = {"label.txt", DECISION, VECTORS, ENTRIES, GRAPH}  # index.py writes them anew; the rest is the encoder


class RetrievalPredictor(Predictor):
    """Serves one retrieval bundle, as `Predictor` does a classifier's; scores stand where probabilities do there.

    Its index is opened when it is first asked for: to `embed` needs none.

    Args:
        timeout: seconds that connecting to a Milvus and a search by it may take.
    """

    kind = RETRIEVAL

    def __init__(self, *args, timeout=10.0, **options):
        super().__init__(*args, **options)
        self._timeout, self._index = timeout, None

    @property
    def columns(self):
        """Numbers that the graph gives for a row: the width of a vector."""
        return self.bundle.manifest["width"]

    @property
    def index(self):
        """The bundle's `VectorIndex`, opened on first use; `load_index` says what it raises."""
        if self._index is None:
            self.load_index()
        return self._index

    def load_index(self):
        """Opens the bundle's index.

        Raises:
            UserError: there is none, it is damaged, or its server is unavailable; the text says what to do.
        """
        manifest = self.bundle.manifest
        if manifest["index"] is None:
            raise UserError(
                f"{self.bundle.folder} has no index yet; python retrieval_based/index.py build --bundle "
                f"{self.bundle.folder} --corpus labels"
            )
        self._index = open_index(self.bundle.folder, manifest, self._timeout)

    def embed(self, texts, max_seq_length=None):
        """Unit vectors of a list of texts: float32 array [texts, width]."""
        return self.run(self.encode(texts, max_seq_length))

    def search(self, vectors):
        """`index.Found` of vectors [rows, width]: for each, as many entries as the bundle's search looks at."""
        return self.index.search(vectors, self.bundle.manifest["search"]["neighbours"])

    def probabilities_of(self, outputs):
        """The score of each label, from 0 to 1: float32 array [rows, labels] of the vectors that `run` gave."""
        return label_scores(self.search(outputs), self.labels, self.bundle.manifest["search"]["vote"])

    def reopened(self):
        """The same encoder with the labels, the decision and the index that the bundle's folder holds now.

        Returns:
            another `RetrievalPredictor`; this one goes on as it is.
        Raises:
            UserError: the bundle is damaged, or holds another encoder.
        """
        bundle = open_bundle(self.bundle.folder, self.kind)
        if _encoder_of(bundle) != _encoder_of(self.bundle):
            raise UserError(f"{bundle.folder} holds another encoder now; start again to serve it")
        other = copy.copy(self)
        other.take(bundle)
        where = bundle.manifest["index"]
        if where != self.bundle.manifest["index"] or where["kind"] == "embedded":  # else the connection stays
            other._index = None
        return other

    def log(self):
        super().log()
        manifest, entries = self.bundle.manifest, len(self.index)
        logger.info(
            "Labels of the %d nearest of %d entries (%s; %s index), %s",
            min(manifest["search"]["neighbours"], entries),
            entries,
            "labelled rows" if manifest["corpus"] == "rows" else "label texts",
            manifest["index"]["kind"],
            "by vote" if manifest["search"]["vote"] else "by the nearest of each",
        )


def _encoder_of(bundle):
    """What a running model was made of: a bundle's files but those that change with its labels, and their use."""
    files = {name: digest for name, digest in bundle.manifest["files"].items() if name not in CHANGING}
    return files, bundle.manifest["width"], bundle.manifest["max_seq_length"]
