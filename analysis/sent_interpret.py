"""Find the training rows behind a prediction: those that the model finds most similar.

    python analysis/sent_interpret.py --device gpu --dataset_dir data --params_path ./checkpoint
    python analysis/sent_interpret.py --device cpu --dataset_dir data --interpret_input_file data.txt --top_k 5

Reads bad_case.txt, which evaluate.py writes, or any file of text[<TAB>labels[<TAB>prediction]], and writes
sent_interpret.txt. Both are in --dataset_dir.
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from text_cls.argument_parser import ArgumentParser
from text_cls.cli import Problems, command, logger, non_negative_int, positive_int
from text_cls.files import atomic_write
from text_cls.language import tr
from text_cls.neural.compat import prepare_environment
from text_cls.rows import one_line, read_cases, read_rows
from utils import add_model_flags, encode_texts, keep_inputs, load_weights, log_rows, open_model, probabilities_of


def parse_args(argv=None):
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add_model_flags(parser, batch_size=16)
    parser.add_argument(
        "--seed", type=non_negative_int, default=3, help="random seed for the index of many rows (%(default)s)"
    )
    parser.add_argument("--top_k", type=positive_int, default=3, help="training rows per text (%(default)s)")
    parser.add_argument("--train_file", default="train.txt", help="rows the model was trained on (%(default)s)")
    parser.add_argument("--interpret_input_file", default="bad_case.txt", help="texts to explain (%(default)s)")
    parser.add_argument("--interpret_result_file", default="sent_interpret.txt", help="output file (%(default)s)")
    parser.add_argument("--html", help="HTML page of texts and supports; any folder (none)")
    return parser.parse_args(argv)


def write_blocks(path, cases, rows, labels, scores, nearest):
    """Writes the guide's block for each text. scores, nearest: from `Neighbours.search`."""
    with atomic_write(path) as file:
        for case, cosines, numbers in zip(cases, scores, nearest):
            file.write(f"text: {one_line(case.text)}\npredict label: {labels.join_ids(case.predicted)}\n")
            file.write(f"label: {labels.join_ids(case.gold or ())}\nexamples with positive influence\n")
            for rank, (cosine, i) in enumerate(zip(cosines, numbers), 1):
                names = labels.join_ids(rows.labels_of(i))
                file.write(f"support{rank} text: {one_line(rows.texts[i])}\tlabel: {names}\tscore: {cosine:.5f}\n")


def labels_without_support(cases, rows, nearest):
    """For each case, the set of missed labels that no support has. nearest: from `Neighbours.search`."""
    missed = (set(case.gold or ()) - set(case.predicted) for case in cases)
    return [labels.difference(*(rows.labels_of(i).tolist() for i in near)) for labels, near in zip(missed, nearest)]


def log_summary(cases, rows, scores, unsupported):
    """Logs how similar the supports are, and how many texts have a missed label that no support has."""
    logger.info("Average score of the first support: %.4f, of all: %.4f", scores[:, 0].mean(), scores.mean())
    if missed := sum(bool(set(case.gold or ()) - set(case.predicted)) for case in cases):
        logger.info(
            "The model missed labels of %d texts; for %d of these, a missed label is in no support: train has no "
            "similar rows with it, so add some (sparse.py --annotate finds candidates)",
            missed,
            sum(map(bool, unsupported)),
        )
    texts = set(rows.texts)
    copies = [case.line for case in cases if case.text in texts]
    if copies:
        logger.warning(
            "%d texts are also training rows (first: line %d); their first support is the text itself",
            len(copies),
            copies[0],
        )


@command
def main(argv=None):
    args = parse_args(argv)
    environment = prepare_environment()
    from text_cls.neural.model import predict_features
    from text_cls.search.neighbours import Neighbours

    problems, cases = Problems(), []
    checkpoint, max_seq_length = open_model(args, problems, "features")
    labels = checkpoint.labels
    with problems.collect():
        rows = read_rows(os.path.join(args.dataset_dir, args.train_file), labels, problems)
    path = os.path.join(args.dataset_dir, args.interpret_input_file)
    with problems.collect():
        cases = read_cases(path, labels, problems)
    if not cases:
        problems.add(
            tr("run evaluate.py, which writes wrong rows to bad_case.txt, or name a file: --interpret_input_file")
        )
    inputs = (args.train_file, args.label_file, args.interpret_input_file)
    outputs = {"--interpret_result_file": args.interpret_result_file}
    if args.html:
        outputs["--html"] = os.path.abspath(args.html)
        if os.path.isdir(args.html):
            problems.add(tr("{path} is a folder; name a file", path=args.html))
    keep_inputs(args.dataset_dir, inputs, outputs, problems)
    problems.stop_if_any()
    log_rows(rows)
    load_weights(checkpoint, args.device, environment)

    def features(texts):
        return predict_features(checkpoint.model, encode_texts(checkpoint, texts, max_seq_length), args.batch_size)

    unpredicted = [case for case in cases if case.predicted is None]
    if unpredicted:
        texts = [case.text for case in unpredicted]
        probabilities = probabilities_of(checkpoint, texts, max_seq_length, args.batch_size)
        for case, chosen in zip(unpredicted, checkpoint.decision.decide(probabilities, labels.parents)):
            case.predicted = chosen.nonzero()[0].tolist()
    corpus, queries = features(rows.texts), features([case.text for case in cases])
    scores, nearest = Neighbours(corpus, seed=args.seed).search(queries, args.top_k)

    result = os.path.join(args.dataset_dir, args.interpret_result_file)
    write_blocks(result, cases, rows, labels, scores, nearest)
    unsupported = labels_without_support(cases, rows, nearest)
    log_summary(cases, rows, scores, unsupported)
    logger.info("Supports of %d texts saved in %s", len(cases), result)
    if args.html:
        from sent_interpret_page import write_supports_page

        source = tr("{model} on {rows}", model=args.params_path, rows=path)
        write_supports_page(args.html, source, cases, rows, labels, scores, nearest, unsupported)
        logger.info("Page saved in %s; open it in a browser", args.html)
    return 0


if __name__ == "__main__":
    sys.exit(main())
