"""Predict labels with a bundle on ONNX Runtime; neither Paddle nor PaddleNLP is needed.

    python infer.py --device cpu --model_path_prefix ../../export/float32 --dataset_dir ../../data
    python infer.py --device cpu --model_path_prefix ../../export/float32 --input_file a.txt --output_file b.txt
    python infer.py --device cpu --use_quantize --model_path_prefix ../../export/float32 --dataset_dir ../../data --perf

--perf scores labelled rows and measures the time of tokenisation and model. The bundle of a pruned model works the same
way: --model_path_prefix ../../prune/width_mult_0.75/pruned_model
"""

import argparse
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from text_cls.argument_parser import ArgumentParser
from text_cls.cli import Problems, UserError, add_blank_flag, command, logger, non_negative_int, positive_int
from text_cls.decision_flags import add_decision_flags, decision_options, overridden
from text_cls.labelling_flags import COUNT, add_labelling_flags, order_problem, read_labelled
from text_cls.language import tr
from text_cls.next_rows import Scorer, choose, ngram_vectors
from text_cls.prediction import check_files, log_flat, log_hierarchy, predict_file
from text_cls.table_flags import add_table_flags, table_options


def parse_args(argv=None):
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--model_path_prefix",
        required=True,
        help="folder of the bundle, or its static graph without the ending (required)",
    )
    parser.add_argument("--model_name_or_path", help="ignored: the bundle has the tokenizer (none)")
    parser.add_argument(
        "--multilingual", action="store_true", help="not needed; an error unless the bundle is multilingual (off)"
    )
    parser.add_argument("--max_seq_length", type=positive_int, help="maximum tokens per text (as in training)")

    run = parser.add_argument_group("device")
    run.add_argument("--device", default="gpu", choices=("cpu", "gpu"), help="where the model runs (%(default)s)")
    run.add_argument("--device_id", type=non_negative_int, default=0, help="number of the GPU (%(default)s)")
    run.add_argument("--num_threads", type=positive_int, help="threads of the model on a CPU (all cores)")
    run.add_argument(
        "--batch_size",
        type=positive_int,
        default=32,
        help="rows of full length per batch; more if they are shorter (%(default)s)",
    )
    run.add_argument("--use_fp16", action="store_true", help="run the bundle's fp16 model, on a GPU (off)")
    run.add_argument("--use_quantize", action="store_true", help="run the bundle's int8 model, on a CPU (off)")

    files = parser.add_argument_group("files")
    files.add_argument("--dataset_dir", help="folder of data.txt or, with --perf, of labelled rows (none)")
    files.add_argument("--input_file", help="texts, one per line, or a table (data.txt in --dataset_dir)")
    files.add_argument("--output_file", help="file to write, text<TAB>label,label as predict.py writes it (log only)")
    files.add_argument("--scores", action="store_true", help="also write the labels' probabilities (off)")
    files.add_argument(
        "--evidence", action="store_true", help="also write the passage that decided each label, start..end (off)"
    )
    files.add_argument("--perf", action="store_true", help="score and time labelled rows instead of predicting (off)")
    files.add_argument(
        "--perf_dataset", default="dev", choices=("dev", "test"), help="labelled rows of --perf (%(default)s)"
    )
    add_blank_flag(files)
    add_table_flags(parser)
    add_labelling_flags(parser)
    add_decision_flags(parser)
    return parser.parse_args(argv)


def measure(predictor, path):
    """Logs F1 on labelled rows, and the time per text of tokenisation, of the model, and in total."""
    from text_cls.long_texts import Windows
    from text_cls.rows import read_rows
    from text_cls.scores import scores

    problems = Problems()
    rows = read_rows(path, predictor.labels, problems)
    problems.stop_if_any()
    texts, parents = list(rows.texts), predictor.labels.parents
    predictor.probabilities(texts[:256])  # warm-up: threads, memory, and the shapes to come
    started = time.perf_counter()
    encoded = predictor.encode(texts)
    tokenised = time.perf_counter()
    outputs = predictor.run(encoded)
    predictor.unread = encoded.truncated if isinstance(encoded, Windows) else 0  # not those of the warm-up
    computed = time.perf_counter()
    predicted = predictor.decision.decide(predictor.probabilities_of(outputs), parents)
    decided = time.perf_counter()
    found = scores(rows.multi_hot(len(predictor.labels)), predicted)
    total = decided - started
    logger.info("micro f1: %.2f, macro f1: %.2f", 100 * found["micro_f1"], 100 * found["macro_f1"])
    logger.info("sample nums: %d, time: %.2f, latency: %.2f ms", len(texts), total, 1000 * total / len(texts))
    logger.info(
        "per text: tokenisation %.3f ms, model %.3f ms, total %.3f ms",
        *(1000 * seconds / len(texts) for seconds in (tokenised - started, computed - tokenised, total)),
    )


def scorer_of(predictor):
    """What `next_rows.choose` needs of a predictor. A classifier's bundle has no vectors but those of n-grams."""
    from text_cls.bundle import RETRIEVAL

    vectors = predictor.embed if predictor.kind == RETRIEVAL else ngram_vectors
    return Scorer(predictor.labels, predictor.decision, predictor.probabilities, vectors)


@command
def main(argv=None):
    args = parse_args(argv)
    if args.use_fp16 and args.use_quantize:
        raise UserError(tr("--use_fp16 is for a GPU and --use_quantize for a CPU; use one of them"))
    if not args.dataset_dir and (args.perf or not args.input_file):
        raise UserError(tr("name the folder of the data, --dataset_dir, or a file of texts, --input_file"))
    from text_cls.labelling_tools import Tool, version_name
    from text_cls.long_texts import evidence_problem, unread_text
    from text_cls.serving import open_predictor
    from text_cls.serving.predictor import bundle_of

    path = args.input_file or os.path.join(args.dataset_dir, "data.txt")
    variant = "fp16" if args.use_fp16 else "int8" if args.use_quantize else "float32"
    predictor = open_predictor(
        bundle_of(args.model_path_prefix),
        variant,
        args.device,
        args.device_id,
        args.num_threads,
        args.batch_size,
        args.max_seq_length,
    )
    kind = predictor.bundle.manifest["model_type"]
    if args.multilingual and kind != "ernie_m":
        raise UserError(
            tr(
                "{model_path_prefix} has a model of type {kind}; remove --multilingual",
                model_path_prefix=args.model_path_prefix,
                kind=kind,
            )
        )
    predictor.log()
    problems = Problems()
    labelled = read_labelled(args, predictor.labels, problems)
    if not args.perf:
        tables, version = table_options(args), version_name(predictor.bundle.folder, predictor.bundle.digest)
        job = check_files(
            path,
            args.output_file,
            problems,
            predictor.labels,
            args.scores,
            args.skip_blank,
            tables=tables,
            with_evidence=args.evidence,
            tool=Tool(args.tool, predictor.labels, version) if args.tool else None,
        )
    elif args.tool or args.order:
        problems.add(tr("--perf writes no file; leave out --for and --order"))
    if args.evidence and (problem := evidence_problem(predictor.long_texts)):
        problems.add(f"--evidence: {problem}")
    with problems.collect():
        predictor.decision = overridden(predictor.decision, **decision_options(args))
        if problem := order_problem(args.order, predictor.decision):
            problems.add(problem)
    problems.stop_if_any()
    if args.perf:
        measure(predictor, os.path.join(args.dataset_dir, f"{args.perf_dataset}.txt"))
    else:
        if args.order:
            job.texts = choose(job.texts, args.order, args.count or COUNT, scorer_of(predictor), labelled, args.seed)
            predictor.unread = 0  # of the rows that are written
        predict = predictor.predict_with_evidence if args.evidence else predictor.predict
        predict_file(job, predict, log_hierarchy if predictor.labels.hierarchical else log_flat)
    if predictor.unread:
        logger.warning(unread_text(predictor.unread, predictor.long_texts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
