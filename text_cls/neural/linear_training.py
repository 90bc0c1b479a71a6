"""The training behind `train.py --model_name linear`: seconds on a CPU, without Paddle."""

import os
import time
from collections.abc import Iterator

from text_cls import linear_model
from text_cls.card_facts import changed_arguments, describe_data, describe_scores, in_words
from text_cls.cli import logger
from text_cls.cross_fitting import chosen_decision, draw_folds, figures
from text_cls.decision import Decision
from text_cls.language import tr
from text_cls.linear_classifier import LINEAR, LONGEST, LinearClassifier, encode
from text_cls.model_card import CARD
from text_cls.neural.checkpoint import Checkpoint, checkpoint_folder_problem, last_folder, save_checkpoint
from text_cls.neural.run_file import describe_run, read_run
from text_cls.neural.teaching import Teaching
from text_cls.probabilities import sigmoid
from text_cls.reference import make_reference, token_counts
from text_cls.rows import Labels, Rows
from text_cls.scores import scores
from text_cls.soft_targets import SoftTargets
from text_cls.teacher_flags import NAMES
from text_cls.tokenization import CodePoints
from text_cls.trackers import Trackers

# Flags of train.py that a linear model has a use for; it always runs on the CPU, whatever --device says.
FLAGS = {
    *("dataset_dir", "train_file", "dev_file", "test_file", "label_file", "max_train_samples", "max_dev_samples"),
    *("model_name", "device", "seed", "save_dir", "tracker", "tracker_dir", "visualdl_dir", "config"),
    *NAMES,
}
PACKAGES = ("scikit-learn", "scipy", "numpy")
MOST_WEIGHTS = 1 << 28  # n-grams times labels, 1 GiB; an ONNX file takes 2
FEWEST_TEXTS = 2  # different ones, of which folds can be made


def argument_problems(arguments: dict, defaults: dict) -> Iterator[str | None]:
    """Yields problems with the arguments of train.py for a linear model, as texts, or None."""
    given = [name for name, value in arguments.items() if name not in FLAGS and value != defaults[name]]
    if given:
        one = tr(
            "--model_name {linear}: {flags} is for pretrained models; leave out", linear=LINEAR, flags=f"--{given[0]}"
        )
        flags = ", ".join(f"--{name}" for name in given)
        several = tr("--model_name {linear}: {flags} are for pretrained models; leave out", linear=LINEAR, flags=flags)
        yield one if len(given) == 1 else several
    save_dir = arguments["save_dir"]
    yield checkpoint_folder_problem(save_dir)
    if read_run(last := last_folder(save_dir)):
        yield tr(
            "{last} holds a stopped run that --resume would continue; delete it, or name another --save_dir", last=last
        )


def train(
    arguments: dict,
    defaults: dict,
    labels: Labels,
    rows: dict[str, Rows],
    files: dict[str, tuple[str, str]],
    teaching: Teaching | None = None,
) -> None:
    """Trains a linear model on checked data, and writes the checkpoint.

    Args:
        arguments, defaults: of the script.
        rows: {"train", "dev" and perhaps "test": labelled rows}.
        files: {"label", "train", ...: (name, path)} of the data files.
        teaching: what is learnt from besides the labels.
    """
    started, seed, save_dir = time.monotonic(), arguments["seed"], arguments["save_dir"]
    trackers = Trackers(
        arguments["tracker"],
        arguments["tracker_dir"],
        os.path.basename(os.path.abspath(save_dir)),
        arguments["visualdl_dir"],
    )
    try:
        trackers.arguments(arguments)
        soft = teaching and teaching.targets(rows)
        model, decision = fit(rows["train"], labels, seed, soft, rows.get("unlabelled"))
        tokens = {split: encode(part.texts) for split, part in rows.items()}
        paths = {name: path for name, path in files.values()}
        run = {"kind": "classification", **describe_run(arguments, paths, PACKAGES), "chosen": ["max_seq_length"]}
        run["arguments"] = {**arguments, "max_seq_length": LONGEST}
        card = {"changed": changed_arguments(arguments, defaults), "decided": in_words(decision)}
        card |= describe_data(labels, rows, tokens, {split: name for split, (name, _) in files.items()})
        card |= {"teacher": teaching.card(soft)} if soft else {}
        card["scores"], reference = {}, None
        for split in [split for split in ("dev", "test") if split in rows]:
            gold, probabilities = rows[split].multi_hot(len(labels)), sigmoid(model.logits(tokens[split]))
            predicted = decision.decide(probabilities, labels.parents)
            log_scores(split, scores(gold, predicted))
            card["scores"][split] = describe_scores(gold, predicted, seed)
            if split == "dev":
                counts = token_counts(tokens[split], None)
                reference = make_reference(files[split][0], labels, decision, probabilities, gold, counts)
        run["card"] = card | {"seconds": round(time.monotonic() - started, 1)}
        checkpoint = Checkpoint(
            model, CodePoints(), labels, decision, run, LONGEST, is_linear=True, reference=reference
        )
        save_checkpoint(save_dir, checkpoint)
        with open(os.path.join(save_dir, CARD), encoding="utf-8") as file:
            trackers.result(card["scores"], file.read(), 0)
    finally:
        trackers.close()
    logger.info("Save linear text classification model in %s (%.0f s)", save_dir, time.monotonic() - started)


def fit(
    rows: Rows, labels: Labels, seed: int, soft: SoftTargets | None = None, unlabelled: Rows | None = None
) -> tuple[LinearClassifier, Decision]:
    """A model of labelled rows, and a decision whose thresholds are fitted to them, each row scored by a model of
    others.

    Args:
        soft: targets of these rows and of the texts without labels, `unlabelled`, to which thresholds are not fitted.
    """
    texts, gold = [text[:LONGEST] for text in rows.texts], rows.multi_hot(len(labels))
    targets, weights, count = gold, None, len(rows)
    if soft:
        texts += [text[:LONGEST] for text in unlabelled.texts] if unlabelled else []
        targets, weights = soft.mixed(gold)
    most = min(linear_model.MOST_FEATURES, max(1, MOST_WEIGHTS // len(labels)))
    features = linear_model.features_of(texts, most)
    ngrams = features.matrix.shape[1]
    logger.info("Linear model: TF-IDF of %d n-grams of characters, one linear SVM per label; on the CPU", ngrams)
    if ngrams == most < linear_model.MOST_FEATURES:
        logger.warning(
            "Only the %d most frequent n-grams are used, so that %d labels fit into memory", most, len(labels)
        )
    # Probabilities are fitted to the rows that thresholds are fitted to.
    model = linear_model.fit(texts, targets, seed, features=features, weights=weights, scored=count)
    decision = Decision()
    if len(set(texts[:count])) >= FEWEST_TEXTS:
        logger.info("Fitting thresholds to the training rows, each scored by a model of other rows ...")
        given = {"seed": seed, "features": features, "weights": weights, "scored": count}
        _, unseen = linear_model.out_of_fold(texts, targets, **given)
        folds = draw_folds(gold, texts[:count], seed)
        decision, predicted = chosen_decision(decision, unseen, gold, folds, labels.parents, seed)
        what = (
            tr("as fitted ones gain no more than chance") if decision == Decision() else tr("fitted, in decision.json")
        )
        micro, macro = figures(gold, predicted)[2:4]
        flattered = tr(" (too high if the teacher knows these rows)") if soft else ""
        form = tr("Thresholds: %s (%s). Train, out of fold%s: micro f1 score: %.5f, macro f1 score: %.5f")
        shown = tr("one per label") if isinstance(decision.threshold, tuple) else f"{decision.threshold:g}"
        logger.info(form, shown, what, flattered, micro / 100, macro / 100)
    return LinearClassifier.of(model), decision


def log_scores(split, found):
    """Logs the scores of the rows of a file."""
    form = tr("%s: micro f1 score: %.5f, macro f1 score: %.5f, accuracy: %.5f")
    logger.info(form, split.capitalize(), found["micro_f1"], found["macro_f1"], found["accuracy"])
