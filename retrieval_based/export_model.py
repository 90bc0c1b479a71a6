"""Export a checkpoint of train.py to a bundle: the encoder as static graph and ONNX model, with an index of its labels.

    python export_model.py --params_path ./checkpoint --output_path ./output
    python export_model.py --params_path ./checkpoint --output_path ./output --no-index       # index.py build makes one

The bundle serves at once, on a machine without Paddle. Labels are added to it and removed by index.py.
"""

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from text_cls.cli import Problems, UserError, command, logger, non_negative_int
from text_cls.neural.compat import prepare_environment, use_old_ir

GRAPH = "inference.get_pooled_embedding"  # the older suite's name


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--params_path", default="./checkpoint", help="checkpoint of train.py (%(default)s)")
    parser.add_argument("--output_path", default="./output", help="folder to write (%(default)s)")
    parser.add_argument(
        "--index", action=argparse.BooleanOptionalAction, default=True, help="with an index of the labels (on)"
    )
    older = parser.add_argument_group("of older commands, not needed: the checkpoint knows")
    older.add_argument("--model_name_or_path", help="nothing is read from it (none)")
    older.add_argument("--output_emb_size", type=non_negative_int, help="must be the checkpoint's (none)")
    return parser.parse_args(argv)


def example_texts(labels):
    """Texts to compare the graphs on: of the examples in data/, and the labels."""
    from text_cls.rows import read_texts
    from text_cls.search.label_scores import label_text

    texts = [text for _, text in read_texts(ROOT / "data" / "data.txt")]
    return [*texts, *map(label_text, labels.names[:64])]


def add_index(draft, predictor, labels, corpus):
    """Puts the index of a label corpus, encoded by what serves it, into a bundle in the making."""
    from text_cls.search.embedded_index import EmbeddedIndex
    from text_cls.search.label_scores import label_entries

    texts, names = label_entries(labels, corpus)
    index = EmbeddedIndex(draft.fields["width"])
    index.add(predictor.embed(texts), names)
    index.save(draft.folder)
    draft.fields["index"] = {"kind": "embedded"}
    logger.info("The index has %d entries for %d labels", len(index), len(labels))


@command
def main(argv=None):
    args = parse_args(argv)
    use_old_ir()
    prepare_environment()
    from encoder import KIND, TrainedEncoder, embed, folder_of
    from text_cls.neural.export import (
        bundle_folder,
        bundle_folder_problem,
        compare,
        texts_to_compare,
        tokenizer_problem,
    )
    from text_cls.neural.model import encode
    from text_cls.search.label_scores import NEIGHBOURS

    problems = Problems()
    if problem := bundle_folder_problem(args.output_path, "--output_path"):
        problems.add(problem)
    with problems.collect():
        trained = TrainedEncoder(folder_of(args.params_path), "cpu")
    problems.stop_if_any()
    checkpoint = trained.checkpoint()
    encoder, labels = checkpoint.model, checkpoint.labels
    width = encoder.config.output_emb_size
    if args.output_emb_size not in (None, width):
        raise UserError(f"--output_emb_size {args.output_emb_size}: that of {args.params_path} is {width}")
    if problem := tokenizer_problem(checkpoint.tokenizer):
        raise UserError(problem)

    from text_cls.serving.retrieval_predictor import RetrievalPredictor

    limit = trained.max_seq_length
    about = {
        "kind": KIND,
        "corpus": "labels",
        "search": {"vote": False, "neighbours": NEIGHBOURS},
        "index": None,
        "width": encoder.width,
    }
    with bundle_folder(args.output_path, checkpoint, GRAPH, limit, "embedding", **about) as draft:
        predictor = RetrievalPredictor(draft.folder)
        texts = texts_to_compare(example_texts(labels), limit)
        wanted = encode(texts, checkpoint.tokenizer, encoder, limit)
        difference = compare(wanted, embed(encoder, wanted, 32), predictor, texts, limit)
        logger.info(
            "The bundle's vectors are the trained model's within %.1e, on rows of %d to %d tokens",
            difference,
            wanted.lengths.min(),
            wanted.lengths.max(),
        )
        if args.index:
            add_index(draft, predictor, labels, trained.corpus)
    logger.info("The bundle is in %s", args.output_path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
