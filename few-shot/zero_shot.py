"""A classifier in seconds, of a sentence encoder and the names of the labels: without labelled rows, or with a few.

    python few-shot/zero_shot.py --dataset_dir data --no-head --output_dir zero           # label.txt and data.txt
    python few-shot/zero_shot.py --dataset_dir few --output_dir head                      # and 1 to 100 rows per label
    python deploy/predictor/infer.py --device cpu --model_path_prefix zero --dataset_dir data

Without train.txt, texts are compared with the names of the labels, or with label_descriptions.txt, and the result is a
bundle for retrieval: index.py adds labels to it. With train.txt, a linear classifier is fitted to its rows on the
encoder's features, and the result is a bundle as that of export_model.py. Every server takes both.
The encoder is one for sentences: python data/make_pretrained_model.py
"""

import argparse
import os
import re
import sys
import time
from pathlib import Path

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from prompt_data import read_label_words
from text_cls.argument_parser import ArgumentParser
from text_cls.cli import Problems, UserError, command, logger, non_negative_int, positive_int
from text_cls.label_tree import paths_to, split_path
from text_cls.language import tr
from text_cls.locks import write_lock
from text_cls.neural.compat import prepare_environment
from text_cls.neural.head_start import DESCRIPTIONS
from text_cls.rows import read_descriptions, read_labels, read_lines, read_rows, read_texts
from utils import log_rows

ENCODER = Path(__file__).resolve().parent.parent / "data" / "e5-zh"
MOST_TEXTS, FEW_TEXTS = 2000, 200  # unlabelled texts: more add nothing; with fewer, the mean is unsure
CODE = re.compile(r"[A-Za-z]{0,3}[._/-]?\d[\d._/-]*[A-Za-z]?", re.ASCII)  # A01, 3.2, AB-12


def parse_args(argv=None):
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    data = parser.add_argument_group("data")
    data.add_argument("--dataset_dir", required=True, help="folder of the data files (required)")
    labels = tr(
        "all labels, one per line; without the file, those of {descriptions} (%(default)s)", descriptions=DESCRIPTIONS
    )
    data.add_argument("--label_file", default="label.txt", help=labels)
    texts = tr(
        "unlabelled texts to centre the labels on, at most {most_texts}, drawn by seed (%(default)s)",
        most_texts=MOST_TEXTS,
    )
    data.add_argument("--unlabelled_file", default="data.txt", help=texts)
    data.add_argument("--train_file", default="train.txt", help="labelled rows, if there are any (%(default)s)")
    data.add_argument("--dev_file", default="dev.txt", help="labelled rows to score, if there are any (%(default)s)")
    head = tr("fit a classifier to the labelled rows; --no-head: do not use them (on if --train_file exists)")
    data.add_argument("--head", action=argparse.BooleanOptionalAction, help=head)

    model = parser.add_argument_group("model")
    model.add_argument("--model_name", default=str(ENCODER), help="sentence encoder: its folder or name (%(default)s)")
    model.add_argument("--output_dir", required=True, help="bundle to write (required)")
    model.add_argument("--device", default="gpu", help="cpu, gpu, xpu, npu, or one card: gpu:0 (%(default)s)")
    length = tr("maximum tokens per text (%(default)s)")
    model.add_argument("--max_seq_length", type=positive_int, default=128, help=length)
    model.add_argument("--batch_size", type=positive_int, default=32, help="rows per batch (%(default)s)")
    seed = tr("seed of the unlabelled texts, and of folds (%(default)s)")
    model.add_argument("--seed", type=non_negative_int, default=3, help=seed)
    return parser.parse_args(argv)


# ------------------------------------------------------------------------------------------------------------- reading


def argument_problems(args):
    """Yields problems with the arguments themselves, as texts, or None."""
    from text_cls.neural.export import bundle_folder_problem
    from text_cls.neural.model import model_name_problem, paddle_device_problem

    yield paddle_device_problem(args.device)
    yield bundle_folder_problem(args.output_dir, "--output_dir")
    if problem := model_name_problem(args.model_name):
        yield tr("{problem}. To make a sentence encoder: python data/make_pretrained_model.py", problem=problem)


def described_labels(path):
    """Yields (line number, name) of the labels of a file of descriptions, parents first, each once."""
    seen = set()
    for number, line in read_lines(path):
        for name in paths_to(line.partition("\t")[0].strip()) if line.strip() else ():
            if name not in seen:
                seen.add(name)
                yield number, name


def read_all_labels(args, problems):
    """`Labels` of the label file, with their descriptions if there are any; without the file, of the descriptions."""
    path, descriptions = (os.path.join(args.dataset_dir, name) for name in (args.label_file, DESCRIPTIONS))
    described = os.path.exists(descriptions)
    if described and not os.path.exists(path):
        labels = read_labels(descriptions, problems, described_labels(descriptions))
    else:
        labels, _ = read_label_words(path, problems)  # the words of `label==word` are for prompts
    if described:
        labels.descriptions = read_descriptions(descriptions, labels, problems)
    return labels


def read_unlabelled(path, seed, problems):
    """At most `MOST_TEXTS` texts of a file, drawn by seed."""
    import numpy as np

    texts = [text for _, text in read_texts(path, problems)]
    if not texts:
        problems.add(tr("{path}: no texts; the labels are centred on unlabelled texts, one per line", path=path))
    elif len(texts) < FEW_TEXTS:
        logger.warning("%s: %d texts are few to centre the labels on; use %d or more", path, len(texts), FEW_TEXTS)
    if len(texts) <= MOST_TEXTS:
        return texts
    return [texts[i] for i in np.sort(np.random.default_rng(seed).permutation(len(texts))[:MOST_TEXTS])]


def read_data(args):
    """Labels, {"train", "dev": rows} of the files that exist, and the unlabelled texts, None if rows are used.

    Raises one UserError that lists every problem found.
    """
    problems = Problems()
    for message in filter(None, argument_problems(args)):
        problems.add(message)
    labels, rows, texts, before = None, {}, None, problems.count
    with problems.collect():
        labels = read_all_labels(args, problems)
    paths = {split: os.path.join(args.dataset_dir, getattr(args, f"{split}_file")) for split in ("train", "dev")}
    if args.head is None:
        args.head = os.path.exists(paths["train"])
    wanted = {"train": args.head, "dev": os.path.exists(paths["dev"])}
    for split in paths if problems.count == before else ():  # without sound labels, every row would look wrong
        with problems.collect():
            if wanted[split]:
                rows[split] = read_rows(paths[split], labels, problems)
    if "train" in rows and not len(rows["train"].label_ids):
        problems.add(tr("{train}: no row has a label; label some, or use --no-head", train=paths["train"]))
    if not args.head:
        with problems.collect():
            texts = read_unlabelled(os.path.join(args.dataset_dir, args.unlabelled_file), args.seed, problems)
    problems.stop_if_any()
    return labels, rows, texts


# ------------------------------------------------------------------------------------------------------------ warnings


def is_sentence_encoder(name):
    """Whether a model's vectors are meant to be compared: by its name, or because its folder records the pooling."""
    from text_cls.neural import hugging_face
    from text_cls.neural.run_file import read_run
    from text_cls.schema import OBJECT, read_json

    folder = hugging_face.find(name) or name
    config = os.path.join(folder, "config.json")
    if not os.path.exists(config):
        return name.startswith("rocketqa")  # the others of PaddleNLP are pretrained only
    if run := read_run(folder):
        return run.get("kind") == "retrieval"
    if os.path.exists(os.path.join(folder, "1_Pooling", "config.json")):
        return True
    return read_json(config, OBJECT, tr("copy the whole folder again")).get("pooling") is not None


def warn(args, labels):
    """Warns of what makes the names of labels useless: an encoder that was not trained to compare texts, and codes."""
    if not is_sentence_encoder(args.model_name):
        logger.warning(
            "--model_name %s: not a sentence encoder, as far as its folder says (no pooling in config.json, no "
            "1_Pooling); its vectors of unlike texts are hardly less similar than those of like ones. Make one: python "
            "data/make_pretrained_model.py, or train one: retrieval_based/train.py",
            args.model_name,
        )
    last = {name: split_path(name)[-1] for name in labels.names if name not in labels.descriptions}
    codes = [name for name, level in last.items() if CODE.fullmatch(level)]
    if codes:
        shown = ", ".join(codes[:5]) + (" ..." if codes[5:] else "")
        logger.warning(
            "%d labels look like codes, which say nothing to an encoder: %s. Write what they mean into %s, one "
            "label<TAB>description per line",
            len(codes),
            shown,
            os.path.join(args.dataset_dir, DESCRIPTIONS),
        )


# -------------------------------------------------------------------------------------------------------------- making


def to_cpu(model):
    """Moves a model to the CPU, where it is exported."""
    from text_cls.neural.model import set_device

    model.to(device="cpu")
    set_device("cpu")


def make_zero_shot(args, labels, texts):
    """Writes the bundle that compares texts with the labels."""
    from label_similarity import load_centred, write_zero_shot
    from text_cls.neural.export import tokenizer_problem

    encoder, tokenizer, vectors = load_centred(args.model_name, texts, args.max_seq_length, args.batch_size)
    if problem := tokenizer_problem(tokenizer):
        raise UserError(problem)
    logger.info("Labels centred on %d unlabelled texts", len(texts))
    to_cpu(encoder)
    write_zero_shot(args.output_dir, labels, encoder, tokenizer, vectors, args.max_seq_length)


def make_head(args, labels, rows):
    """Writes the bundle of a classifier fitted to the rows."""
    from frozen_head import fit_head, write_head
    from text_cls.decision import Decision
    from text_cls.neural.checkpoint import Checkpoint
    from text_cls.neural.export import tokenizer_problem
    from text_cls.neural.model import encode, load_pretrained

    model, tokenizer = load_pretrained(args.model_name, len(labels))
    if problem := tokenizer_problem(tokenizer):
        raise UserError(problem)
    model.eval()
    checkpoint = Checkpoint(model, tokenizer, labels, Decision(), {})
    fit_head(checkpoint, rows, encode(rows.texts, tokenizer, model, args.max_seq_length), args)
    if missing := int((rows.support(len(labels)) == 0).sum()):
        logger.info("%d labels have no row: only what they are called says which texts have them", missing)
    to_cpu(model)
    write_head(args.output_dir, checkpoint, args.max_seq_length)


def log_scores(args, labels, rows):
    """Logs the scores of the bundle on the dev rows."""
    from text_cls.scores import scores
    from text_cls.serving import open_predictor

    predictor = open_predictor(args.output_dir)
    predicted = predictor.decision.decide(predictor.probabilities(list(rows.texts)), labels.parents)
    found = scores(rows.multi_hot(len(labels)), predicted)
    what = tr("Dev: micro f1 %.2f, macro f1 %.2f, on %d rows")
    logger.info(what, 100 * found["micro_f1"], 100 * found["macro_f1"], len(rows))


def run(args):
    """Reads the data and makes the bundle."""
    labels, rows, texts = read_data(args)
    logger.info("%d labels, %s", len(labels), tr("hierarchical") if labels.hierarchical else tr("flat"))
    for part in rows.values():
        log_rows(part)
    warn(args, labels)

    from text_cls.neural.model import set_device

    started = time.perf_counter()
    set_device(args.device)
    if args.head:
        make_head(args, labels, rows["train"])
    else:
        make_zero_shot(args, labels, texts)
    logger.info("The bundle is in %s (%.0f s)", args.output_dir, time.perf_counter() - started)
    if "dev" in rows:
        log_scores(args, labels, rows["dev"])


@command
def main(argv=None):
    args = parse_args(argv)
    prepare_environment()
    with write_lock(args.output_dir):
        run(args)


if __name__ == "__main__":
    sys.exit(main())
