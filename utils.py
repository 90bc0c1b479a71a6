"""What the scripts share: flags of a model, logging of data, encoding and scoring of texts."""

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from text_cls import long_text_flags
from text_cls.cli import logger, positive_int
from text_cls.language import N_, tr
from text_cls.long_texts import CUT, WINDOWS, unread_text
from text_cls.rows import LINE_BREAKS, one_line

CHECKPOINT = str(Path(__file__).resolve().parent / "checkpoint")  # written by train.py in the project's folder


# -------------------------------------------------------------------------------------------------------------- flags


def add_model_flags(
    parser,
    params_path=CHECKPOINT,
    params_help=N_("checkpoint of train.py (%(default)s)"),
    batch_size=32,
    batch_help=N_("rows per batch (%(default)s)"),
    label_help=N_("labels; if the file exists, it must be the model's (%(default)s)"),
    group=None,
):
    """Adds --dataset_dir and --label_file; to `group`, --params_path, --device, those of the texts' length, and
    --batch_size."""
    parser.add_argument("--dataset_dir", required=True, help="folder of the data files (required)")
    parser.add_argument("--label_file", default="label.txt", help=label_help)
    group = group or parser
    group.add_argument("--params_path", default=params_path, help=params_help)
    group.add_argument("--device", default="gpu", help="cpu, gpu, xpu, npu, or one card: gpu:0 (%(default)s)")
    group.add_argument("--max_seq_length", type=positive_int, help="maximum tokens per text (as in training; 128)")
    long_text_flags.add_model_flags(group)
    group.add_argument("--batch_size", type=positive_int, default=batch_size, help=batch_help)


# -------------------------------------------------------------------------------------------------------------- model


def open_model(args, problems, uses=None):
    """(checkpoint without weights, maximum length), by the flags of `add_model_flags`.

    uses: what the script needs of a neural network, for the message if the checkpoint is a linear model; None if it
        needs nothing but probabilities.
    """
    from text_cls.neural.checkpoint import open_checkpoint

    label_file = os.path.join(args.dataset_dir, args.label_file)
    checkpoint, length = open_checkpoint(args.params_path, label_file, args.device, args.max_seq_length, problems)
    checkpoint.long_texts = long_text_flags.chosen(checkpoint, args, length, problems)
    if checkpoint.is_linear and checkpoint.long_texts.mode != CUT:
        problems.add(
            tr(
                "--long_texts {long_texts}: a linear model reads a text as a whole; leave it out",
                long_texts=args.long_texts,
            )
        )
    if checkpoint.is_linear and uses:
        problems.add(
            tr(
                "--params_path {params_path} holds a linear model, which has no {uses}; name another model",
                params_path=args.params_path,
                uses=uses,
            )
        )
    return checkpoint, length


def load_weights(checkpoint, device, environment):
    """Loads model and tokenizer of a `Checkpoint` onto the device, and logs both. environment: log lines."""
    from text_cls.neural.checkpoint import load_model
    from text_cls.neural.model import log_model

    load_model(checkpoint, device)
    if checkpoint.is_linear:
        logger.info("Linear model of %d n-grams, on the CPU", len(checkpoint.model.keys))
    else:
        log_model(checkpoint.model, checkpoint.tokenizer, device, environment)


def encode_texts(checkpoint, texts, max_seq_length):
    """Tokens of texts, as `batching.Encoded` or `long_texts.Windows`."""
    from text_cls.neural import windows

    return windows.encode_texts(checkpoint, texts, max_seq_length)


class Predicted(NamedTuple):
    """What `predict_texts` returns.

    probabilities: float32 array [texts, labels], before the checkpoint's temperature. passages: int32 array [texts,
    labels, 2], or None. unread: number of texts with more windows than the checkpoint reads. tokens: those that it
    read, as `reference.token_counts` counts them.
    """

    probabilities: np.ndarray
    passages: np.ndarray | None
    unread: int
    tokens: tuple[np.ndarray, int, int]


def predict_texts(checkpoint, texts, max_seq_length, batch_size, with_passages=False):
    """The probabilities of texts by a loaded checkpoint.

    with_passages: also for each label the passage that decided it, of a checkpoint that reads long texts in windows:
        the first character of the window with the highest logit, and the one after its last.
    """
    from text_cls.neural.model import predict_passages
    from text_cls.neural.onnx_logits import onnx_logits
    from text_cls.neural.windows import logits_of_texts
    from text_cls.probabilities import sigmoid
    from text_cls.reference import token_counts

    tokens = encode_texts(checkpoint, texts, max_seq_length)
    is_windows = checkpoint.long_texts.mode == WINDOWS
    if is_windows and with_passages:
        with onnx_logits(checkpoint, len(texts)):
            logits, passages = predict_passages(checkpoint.model, tokens, batch_size)
    else:
        logits, passages = logits_of_texts(checkpoint, tokens, batch_size), None
    counted = token_counts(tokens, getattr(checkpoint.tokenizer, "unk_token_id", None))
    return Predicted(sigmoid(logits), passages, tokens.truncated if is_windows else 0, counted)


def probabilities_of(checkpoint, texts, max_seq_length, batch_size):
    """The probabilities of `predict_texts`. Logs how many texts are not read to their end."""
    found = predict_texts(checkpoint, texts, max_seq_length, batch_size)
    if found.unread:
        logger.warning(unread_text(found.unread, checkpoint.long_texts))
    return found.probabilities


# --------------------------------------------------------------------------------------------------------------- data


def log_data(labels, rows):
    """Logs the labels, each file ({split: `Rows`}), and problems between train and dev."""
    logger.info("%d labels, %s", len(labels), tr("hierarchical") if labels.hierarchical else tr("flat"))
    for part in rows.values():
        log_rows(part)
    if {"train", "dev"} <= rows.keys():
        for line in describe_pair(rows["train"], rows["dev"], labels):
            logger.warning(line)


def log_rows(rows):
    """Logs the description of a file."""
    for line in describe(rows):
        logger.info(line)


def keep_inputs(folder, inputs, outputs, problems):
    """Adds a problem for each output, {flag: name in the folder}, that is also an input (names) or another output."""
    read, written = {os.path.realpath(os.path.join(folder, name)) for name in inputs}, set()
    for flag, name in outputs.items():
        path = os.path.realpath(os.path.join(folder, name))
        if path in read:
            problems.add(
                tr("{flag} {name}: this is also an input file and would be lost; name another", flag=flag, name=name)
            )
        if path in written:
            problems.add(tr("{flag} {name}: another output already has this name; name another", flag=flag, name=name))
        written.add(path)


def describe(rows):
    """Yields lines that describe a file before training: sizes, completed rows, repeated texts."""
    empty = int((np.diff(rows.offsets) == 0).sum())
    yield (
        tr(
            "{path}: {rows} rows, {mean:.2f} labels per row, {empty} without a label, {blank} blank lines skipped",
            path=rows.path,
            rows=len(rows),
            mean=len(rows.label_ids) / max(1, len(rows)),
            empty=empty,
            blank=rows.blank,
        )
    )
    if rows.completed:
        yield tr(
            "{path}: {completed} rows name a child but not its parent; the parents were added",
            path=rows.path,
            completed=rows.completed,
        )
    if broken := sum(one_line(text) != text for text in rows.texts):
        yield tr(
            "{path}: {broken} texts contain {line_breaks}; files made of these rows have spaces there",
            path=rows.path,
            broken=broken,
            line_breaks=tr(LINE_BREAKS),
        )
    texts, label_sets = _text_keys(rows), _label_keys(rows)
    order = np.argsort(texts, kind="stable")
    again = texts[order][1:] == texts[order][:-1]
    other = again & (label_sets[order][1:] != label_sets[order][:-1])
    if again.any():
        yield tr(
            "{path}: {again} rows repeat the text of another row; {lines}",
            path=rows.path,
            again=again.sum(),
            lines=_lines(rows, order, again),
        )
    if other.any():
        yield (
            tr(
                "{path}: {other} of them have other labels than that row; {lines}. One of each pair is wrong",
                path=rows.path,
                other=other.sum(),
                lines=_lines(rows, order, other),
            )
        )


def describe_pair(train, dev, labels):
    """Yields lines on problems between train and dev: shared texts, labels that cannot be learnt."""
    shared = np.isin(_text_keys(dev), _text_keys(train))
    if shared.any():
        yield (
            tr(
                "{path}: {shared} rows have a text that is also in {train} (first: line {line}); their scores flatter "
                "the model",
                path=dev.path,
                shared=shared.sum(),
                train=train.path,
                line=dev.lines[shared.argmax()],
            )
        )
    unseen = [labels.names[i] for i in np.flatnonzero(train.support(len(labels)) == 0)]
    if unseen:
        more = tr(" and {count} more", count=len(unseen) - 10) if len(unseen) > 10 else ""
        yield tr(
            "{path}: {count} labels have no row and cannot be learnt: {unseen}{more}",
            path=train.path,
            count=len(unseen),
            unseen=", ".join(unseen[:10]),
            more=more,
        )


def _lines(rows, order, found):
    """The first repetition in words. found: bool array [rows - 1], whether row order[i + 1] repeats row order[i]."""
    first = int(found.argmax())
    return tr(
        "first: lines {line} and {other_line}", line=rows.lines[order[first]], other_line=rows.lines[order[first + 1]]
    )


def _text_keys(rows):
    return _keys(text.encode("utf-8") for text in rows.texts)


def _label_keys(rows):
    return _keys(rows.labels_of(i).tobytes() for i in range(len(rows)))


def _keys(values):
    """64-bit hashes: 8 bytes per row instead of a set of texts. Two of a million collide with a chance of 3e-8."""
    return np.array([int.from_bytes(hashlib.blake2b(v, digest_size=8).digest(), "big") for v in values], np.uint64)
