"""A retrieval bundle on ONNX Runtime: texts become vectors, and get the labels of the nearest entries of the index.

from text_cls.serving import open_predictor

predictor = open_predictor("output")  # a bundle of either kind
for names, scores in predictor.predict(["今日大盘下跌2%", "央行发布金融数据"]):
    print(names, scores)
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from text_cls.bundle import RETRIEVAL, file_problems
from text_cls.cli import UserError, logger
from text_cls.files import read_unchanged
from text_cls.language import N_, tr
from text_cls.search.embedded_index import ENTRIES, GRAPH, VECTORS
from text_cls.search.index import Found, VectorIndex
from text_cls.search.label_scores import label_scores
from text_cls.search.open_index import open_index
from text_cls.serving.predictor import Predictor

INDEX_REMEDY = N_(
    "run this again if index.py has just changed it; else copy the bundle again, or rebuild the index: "
    "python retrieval_based/index.py build"
)


class RetrievalPredictor(Predictor):
    """Predicts labels with one retrieval bundle, as `Predictor` does with a classifier; scores replace probabilities.

    The index is opened on first use; `embed` does not need it.

    Args:
        timeout: seconds that connecting to Milvus, and a search in it, may take.
    """

    kind = RETRIEVAL
    changing = Predictor.changing | {"label.txt", VECTORS, ENTRIES, GRAPH}  # what index.py rewrites; not the encoder

    def __init__(self, *args: Any, timeout: float = 10.0, **options: Any) -> None:
        super().__init__(*args, **options)
        self._timeout, self._index = timeout, None

    @property
    def columns(self) -> int:
        """Outputs of the graph per row: the width of a vector."""
        return self.bundle.manifest["width"]

    @property
    def index(self) -> VectorIndex:
        """The bundle's index, opened on first use; see `load_index` for what it raises."""
        if self._index is None:
            self.load_index()
        return self._index

    def load_index(self) -> None:
        """Opens the bundle's index.

        Raises:
            UserError: there is none, it is damaged, or its server is unavailable; the message says what to do.
        """
        manifest = self.bundle.manifest
        if manifest["index"] is None:
            raise UserError(
                tr(
                    "{folder} has no index yet; python retrieval_based/index.py build --bundle {folder} --corpus "
                    "labels",
                    folder=self.bundle.folder,
                )
            )
        self._index = read_unchanged(self.bundle.folder, self._open_index)

    def _open_index(self):
        """The index. The files may have been replaced since the encoder was opened, so they are compared once more."""
        folder, manifest = self.bundle.folder, self.bundle.manifest
        files = {name: digest for name, digest in manifest["files"].items() if name in (VECTORS, ENTRIES, GRAPH)}
        for problem in file_problems(folder, files, tr(INDEX_REMEDY)):
            raise UserError(problem)
        return open_index(folder, manifest, self._timeout)

    def embed(self, texts: Sequence[str], max_seq_length: int | None = None) -> np.ndarray:
        """Unit vectors of texts: float32 array [texts, width]."""
        return self.run(self.encode(texts, max_seq_length))

    def search(self, vectors: np.ndarray) -> Found:
        """The nearest entries of vectors [rows, width]: per vector, as many as the bundle's search uses."""
        return self.index.search(vectors, self.bundle.manifest["search"]["neighbours"])

    def probabilities_of(self, outputs: np.ndarray) -> np.ndarray:
        """The score of each label, from 0 to 1: float32 array [rows, labels], from the vectors of `run`."""
        search = self.bundle.manifest["search"]
        return label_scores(self.search(outputs), self.labels, search["vote"], search.get("calibration"))

    def _reopened(self, verified):
        other = super()._reopened(verified)
        where = other.bundle.manifest["index"]
        if where != self.bundle.manifest["index"] or where["kind"] == "embedded":  # else the connection is kept
            other._index = None
            if where and where["kind"] == "embedded":  # one in Milvus is not read from the folder, and may be down
                other.load_index()
        return other

    def log(self) -> None:
        super().log()
        manifest, entries = self.bundle.manifest, len(self.index)
        logger.info(
            "Labels of the %d nearest of %d entries (%s; %s index), %s",
            min(manifest["search"]["neighbours"], entries),
            entries,
            tr("labelled rows") if manifest["corpus"] == "rows" else tr("label texts"),
            manifest["index"]["kind"],
            tr("by vote") if manifest["search"]["vote"] else tr("by the nearest of each"),
        )
