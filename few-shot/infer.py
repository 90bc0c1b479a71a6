"""Predict labels with the bundle of a prompt model on ONNX Runtime; needs neither Paddle nor PaddleNLP.

    python few-shot/infer.py --device cpu --model_path_prefix prompted/export/model --data_dir data
    python few-shot/infer.py --device gpu --model_path_prefix prompted/export/model --data_dir data --use_fp16

It reads data.txt and logs the labels. The bundle is an ordinary one: deploy/predictor/infer.py writes labels and scores
to a file, and the servers in deploy/ serve it.
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from text_cls.cli import Problems, add_blank_flag, command, logger, non_negative_int, positive_int
from text_cls.decision_flags import add_decision_flags, decision_options, overridden
from text_cls.prediction import count_texts, predict_file


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--model_path_prefix", required=True, help="bundle, or its static graph (required)")
    parser.add_argument("--model_name", help="ignored: the bundle has the tokenizer (none)")
    parser.add_argument("--data_dir", required=True, help="folder with data.txt (required)")
    parser.add_argument(
        "--max_length", type=positive_int, help="maximum tokens per row, prompt included (as in training)"
    )
    parser.add_argument("--use_fp16", action="store_true", help="half precision; only on a GPU (off)")
    parser.add_argument("--batch_size", type=positive_int, default=200, help="full-length rows per batch (%(default)s)")
    parser.add_argument("--num_threads", type=positive_int, help="CPU threads (all cores)")
    parser.add_argument("--device", default="gpu", choices=("cpu", "gpu"), help="where the model runs (%(default)s)")
    parser.add_argument("--device_id", type=non_negative_int, default=0, help="number of the GPU (%(default)s)")
    add_blank_flag(parser)
    add_decision_flags(parser)
    return parser.parse_args(argv)


def log_row(text, names):
    """Logs a row in the format of PaddleNLP's application."""
    logger.info("input data: %s", text)
    logger.info("labels: %s", ", ".join(names))
    logger.info("-----------------------------")


@command
def main(argv=None):
    args = parse_args(argv)
    from text_cls.serving.predictor import Predictor, bundle_of

    problems, predictor, path = Problems(), None, os.path.join(args.data_dir, "data.txt")
    with problems.collect():
        predictor = Predictor(
            bundle_of(args.model_path_prefix),
            "fp16" if args.use_fp16 else "float32",
            args.device,
            args.device_id,
            args.num_threads,
            args.batch_size,
            args.max_length,
        )
    if os.path.exists(path):
        count = count_texts(path, problems, predictor and predictor.labels, args.skip_blank)
    else:
        problems.add(f"--data_dir {args.data_dir}: there is no data.txt; write the texts to it, one per line")
    problems.stop_if_any()
    predictor.log()
    predictor.decision = overridden(predictor.decision, **decision_options(args))
    predict_file(path, count, None, predictor.predict, log_row, with_scores=False, skip_blank=args.skip_blank)
    return 0


if __name__ == "__main__":
    sys.exit(main())
