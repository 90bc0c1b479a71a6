"""Runs a bundle on ONNX Runtime: texts in, labels out. Paddle is not needed.

from text_cls.serving import open_predictor

predictor = open_predictor("export")  # a bundle of either kind
for names, scores in predictor.predict(["今日大盘下跌2%", "央行发布金融数据"]):
    print(names, scores)
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from text_cls.serving.predictor import Predictor


def open_predictor(folder: str, *args: Any, timeout: float = 10.0, **options: Any) -> "Predictor":
    """Opens a bundle of either kind: as a `Predictor` or, for a retrieval bundle, a `RetrievalPredictor`.

    Args:
        folder, args, timeout, options: arguments of those classes.
    Raises:
        UserError: see `Predictor`; or a retrieval bundle has no index, or its index cannot be opened.
    """
    from text_cls.bundle import RETRIEVAL, bundle_kind
    from text_cls.files import read_unchanged

    def read():
        if bundle_kind(folder) != RETRIEVAL:
            from text_cls.serving.predictor import Predictor

            return Predictor(folder, *args, **options)
        from text_cls.serving.retrieval_predictor import RetrievalPredictor

        predictor = RetrievalPredictor(folder, *args, timeout=timeout, **options)
        predictor.load_index()  # now, so that a broken index is reported before the first long step
        return predictor

    return read_unchanged(folder, read)
