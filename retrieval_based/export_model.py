"""Export a checkpoint of train.py to a bundle: the encoder as static graph and ONNX model, with an index of its labels.

    python export_model.py --params_path ./checkpoint --output_path ./output
    python export_model.py --params_path ./checkpoint --output_path ./output --no-index    # run index.py build later

The bundle is ready to serve on a machine without Paddle. index.py adds labels to it and removes them.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from text_cls.argument_parser import ArgumentParser
from text_cls.cli import Problems, UserError, command, logger, non_negative_int
from text_cls.language import tr
from text_cls.locks import write_lock
from text_cls.neural.compat import prepare_environment

ROOT = Path(__file__).resolve().parent.parent
GRAPH = "inference.get_pooled_embedding"  # as in PaddleNLP's application


def parse_args(argv=None):
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--params_path", default="./checkpoint", help="checkpoint of train.py (%(default)s)")
    parser.add_argument("--output_path", default="./output", help="folder to write (%(default)s)")
    parser.add_argument(
        "--index", action=argparse.BooleanOptionalAction, default=True, help="include an index of the labels (on)"
    )
    unused = parser.add_argument_group("flags of PaddleNLP's application, not needed: the checkpoint says both")
    unused.add_argument("--model_name_or_path", help="ignored: --params_path names the model (none)")
    unused.add_argument("--output_emb_size", type=non_negative_int, help="width of a vector: the checkpoint's (none)")
    return parser.parse_args(argv)


def example_texts(labels):
    """Texts to compare the graphs on: the examples in data/, and the first labels."""
    from text_cls.rows import read_texts
    from text_cls.search.label_scores import label_text

    texts = [text for _, text in read_texts(ROOT / "data" / "data.txt")]
    return [*texts, *map(label_text, labels.names[:64])]


def add_index(draft, predictor, labels, corpus):
    """Adds an index of the label texts to an unfinished bundle, with vectors of the predictor that will serve it."""
    from text_cls.search.embedded_index import EmbeddedIndex
    from text_cls.search.label_scores import label_entries

    texts, names = label_entries(labels, corpus)
    index = EmbeddedIndex(draft.fields["width"])
    index.add(predictor.embed(texts), names)
    index.save(draft.folder)
    draft.fields["index"] = {"kind": "embedded"}
    logger.info("The index has %d entries for %d labels", len(index), len(labels))


def open_checked(args):
    """The `TrainedEncoder` of --params_path with its weights. UserError lists what is wrong with the arguments."""
    from encoder import TrainedEncoder, folder_of
    from text_cls.neural.export import bundle_folder_problem, tokenizer_problem

    problems = Problems()
    if problem := bundle_folder_problem(args.output_path, "--output_path"):
        problems.add(problem)
    with problems.collect():
        trained = TrainedEncoder(folder_of(args.params_path), "cpu")
    problems.stop_if_any()
    checkpoint = trained.checkpoint()
    width = checkpoint.model.config.output_emb_size
    if args.output_emb_size not in (None, width):
        raise UserError(
            tr(
                "--output_emb_size {output_emb_size}: that of {params_path} is {width}",
                output_emb_size=args.output_emb_size,
                params_path=args.params_path,
                width=width,
            )
        )
    if problem := tokenizer_problem(checkpoint.tokenizer):
        raise UserError(problem)
    return trained


def compare_vectors(checkpoint, predictor, limit):
    """Logs how far the bundle's vectors differ from the trained model's. UserError if they differ too much."""
    from encoder import embed
    from text_cls.neural.export import compare, texts_to_compare
    from text_cls.neural.model import encode

    texts = texts_to_compare(example_texts(checkpoint.labels), limit)
    encoded = encode(texts, checkpoint.tokenizer, checkpoint.model, limit)
    difference = compare(encoded, embed(checkpoint.model, encoded, 32), predictor, texts, limit)
    logger.info(
        "The bundle's vectors match the trained model's within %.1e, on rows of %d to %d tokens",
        difference,
        encoded.lengths.min(),
        encoded.lengths.max(),
    )


def run(args):
    """Exports the checkpoint."""
    trained = open_checked(args)

    from encoder import KIND
    from text_cls.neural.export import bundle_folder
    from text_cls.search.label_scores import NEIGHBOURS
    from text_cls.serving.retrieval_predictor import RetrievalPredictor

    checkpoint, limit = trained.checkpoint(), trained.max_seq_length
    fields = {
        "kind": KIND,
        "corpus": "labels",
        "search": {"vote": False, "neighbours": NEIGHBOURS},
        "index": None,
        "width": checkpoint.model.width,
    }
    with bundle_folder(args.output_path, checkpoint, GRAPH, limit, "embedding", **fields) as draft:
        predictor = RetrievalPredictor(draft.folder)
        compare_vectors(checkpoint, predictor, limit)
        if args.index:
            add_index(draft, predictor, checkpoint.labels, trained.corpus)
    logger.info("The bundle is in %s", args.output_path)


@command
def main(argv=None):
    args = parse_args(argv)
    prepare_environment()
    with write_lock(args.output_path):
        run(args)


if __name__ == "__main__":
    sys.exit(main())
