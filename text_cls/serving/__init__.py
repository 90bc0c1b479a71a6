"""A bundle opened and run on ONNX Runtime: texts in, labels out. No Paddle.

from text_cls.serving import open_predictor

predictor = open_predictor("export")  # a bundle of either kind
for names, scores in predictor.predict(["今日大盘下跌2%", "央行发布金融数据"]):
    print(names, scores)
"""


def open_predictor(folder, *args, timeout=10.0, **options):
    """A `Predictor` or a `RetrievalPredictor` that labels texts, by the kind of the bundle.

    Args:
        folder, args, timeout, options: as of those classes.
    Raises:
        UserError: as of `Predictor`; or a retrieval bundle has no index, or its index does not open.
    """
    from text_cls.bundle import RETRIEVAL, bundle_kind

    if bundle_kind(folder) != RETRIEVAL:
        from text_cls.serving.predictor import Predictor

        return Predictor(folder, *args, **options)
    from text_cls.serving.retrieval_predictor import RetrievalPredictor

    predictor = RetrievalPredictor(folder, *args, timeout=timeout, **options)
    predictor.load_index()  # now, so that a faulty index is reported before the first long step
    return predictor
