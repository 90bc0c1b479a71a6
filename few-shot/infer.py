"""Predict labels with the bundle of a prompt model on ONNX Runtime; needs neither Paddle nor PaddleNLP.

    python few-shot/infer.py --device cpu --model_path_prefix prompted/export/model --data_dir data
    python few-shot/infer.py --device gpu --model_path_prefix prompted/export/model --data_dir data --use_fp16
    python few-shot/infer.py --model_path_prefix prompted/export/model --input_file a.csv --output_file b.csv

It reads data.txt and logs the labels, or writes them to a file as deploy/predictor/infer.py does. The bundle is an
ordinary one: that script can read it, too, and the servers in deploy/ serve it.
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from text_cls.argument_parser import ArgumentParser
from text_cls.cli import Problems, UserError, add_blank_flag, command, logger, non_negative_int, positive_int
from text_cls.decision_flags import add_decision_flags, decision_options, overridden
from text_cls.language import tr
from text_cls.prediction import check_files, predict_file
from text_cls.table_flags import add_table_flags, table_options


def parse_args(argv=None):
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--model_path_prefix", required=True, help="bundle, or its static graph (required)")
    parser.add_argument("--model_name", help="ignored: the bundle has the tokenizer (none)")
    parser.add_argument("--data_dir", help="folder with data.txt (required without --input_file)")
    parser.add_argument("--input_file", help="texts, one per line, or a table (data.txt in --data_dir)")
    parser.add_argument("--output_file", help="file to write, text<TAB>label,label as predict.py writes it (log only)")
    parser.add_argument("--scores", action="store_true", help="also write the labels' probabilities (off)")
    parser.add_argument(
        "--max_length", type=positive_int, help="maximum tokens per row, prompt included (as in training)"
    )
    parser.add_argument("--use_fp16", action="store_true", help="half precision; only on a GPU (off)")
    parser.add_argument("--batch_size", type=positive_int, default=200, help="full-length rows per batch (%(default)s)")
    parser.add_argument("--num_threads", type=positive_int, help="CPU threads (all cores)")
    parser.add_argument("--device", default="gpu", choices=("cpu", "gpu"), help="where the model runs (%(default)s)")
    parser.add_argument("--device_id", type=non_negative_int, default=0, help="number of the GPU (%(default)s)")
    add_blank_flag(parser)
    add_table_flags(parser)
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
    if not args.data_dir and not args.input_file:
        raise UserError(tr("name the folder of data.txt, --data_dir, or a file of texts, --input_file"))
    from text_cls.serving.predictor import Predictor, bundle_of

    problems, predictor, path = Problems(), None, args.input_file or os.path.join(args.data_dir, "data.txt")
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
    if args.input_file or os.path.exists(path):
        labels, tables = predictor and predictor.labels, table_options(args)
        job = check_files(path, args.output_file, problems, labels, args.scores, args.skip_blank, tables=tables)
    else:
        problems.add(
            tr(
                "--data_dir {data_dir}: there is no data.txt; write the texts to it, one per line",
                data_dir=args.data_dir,
            )
        )
    problems.stop_if_any()
    predictor.log()
    predictor.decision = overridden(predictor.decision, **decision_options(args))
    predict_file(job, predictor.predict, log_row)
    return 0


if __name__ == "__main__":
    sys.exit(main())
