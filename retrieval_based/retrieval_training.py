"""How an encoder learns: texts near the texts of their labels, far from those of the other labels of their batch.

The texts of a batch are compared with its labels, each label encoded once. The loss of a pair, a text and one of its
labels, is the cross-entropy of that label among those of the batch. The logits are the cosines, that of the pair minus
a margin, times a scale. Other labels of the same text, in any of its rows, are left out: they are not negatives. Each
process compares its own share of a batch: negatives do not cross cards, as in PaddleNLP's application.
"""

from dataclasses import dataclass, replace

import numpy as np

from encoder import KIND, embed, load_encoder
from metric import recall_at
from text_cls.batching import Encoded
from text_cls.card_facts import describe_data
from text_cls.cli import logger
from text_cls.cross_fitting import value_of
from text_cls.neural.checkpoint import Checkpoint
from text_cls.neural.evaluation import Evaluation, all_reduce
from text_cls.neural.model import encode
from text_cls.neural.pooling import start_pooling
from text_cls.neural.run_state import load_start, start_run
from text_cls.neural.steps import Steps
from text_cls.neural.training import Trainer, make_ready
from text_cls.neural.training_log import TrainingLog
from text_cls.neural.training_options import TrainingOptions
from text_cls.rows import Rows, Texts
from text_cls.scores import scores
from text_cls.search.index import Found
from text_cls.search.label_scores import (
    corpus_labels,
    deepest,
    deepest_gold,
    default_decision,
    label_entries,
    label_scores,
)
from text_cls.search.neighbours import Neighbours
from text_cls.thresholds import GRID

CUTOFFS = (1, 5, 10, 20, 50)
MOST_CELLS = 20_000_000  # maximum scores to fit a threshold to: some seconds on one core
# What the threshold maximises, for each --metric_for_best.
OBJECTIVE = {"recall@1": "micro", "micro_f1": "micro", "macro_f1": "macro", "accuracy": "exact"}


@dataclass(kw_only=True)
class RetrievalOptions(TrainingOptions):
    """`TrainingOptions`, and the further options of this folder's train.py."""

    margin: float = 0.2
    scale: float = 30
    evaluate: bool = True
    recall_num: int = 50
    threshold: float | None = None
    save_steps: int = 10000


@dataclass
class LabelCorpus:
    """The labels that texts are compared with, those of `corpus_labels`.

    Attributes:
        names: a list with one label name for each entry, as a row of the index has them.
        ids: int array [entries], number of each entry's label.
        tokens: the entries' texts as `Encoded`.
    """

    names: list
    ids: np.ndarray
    tokens: Encoded


def train(args, labels, rows, arguments, files, environment, progress, defaults=None):
    """Runs train.py's arguments on checked data. Returns the exit status: 0, or 128 + the signal that stopped it.

    arguments: those of `args` as given, as a dict. files: {name: path} of the data. progress: `Progress` to continue.
    defaults: of the arguments, as a dict.
    """
    corpus = [labels.names[i] for i in corpus_labels(labels, rows["train"])]
    sets = label_sets(rows["train"])
    decision = default_decision(labels, rows_of(sets, args.train_set_file))
    if args.threshold is not None:
        decision = replace(decision, threshold=args.threshold)
    rows["train"] = rows_of({text: ids for text, ids in sets.items() if ids}, args.train_set_file)
    if args.metric_for_best is None:
        args.metric_for_best = "recall@1" if decision.hierarchy == "one_per_level" else "macro_f1"
    options = options_of(args)
    run = start_run(options, arguments, files, progress, KIND, defaults)
    logger.info("%d different texts with labels to learn from, %d labels as corpus", len(rows["train"]), len(corpus))

    def load(name):
        return load_encoder(name, args.output_emb_size, pooling=start_pooling(options, name))

    encoder, tokenizer, state = load_start(options, run, progress, load)
    tokens = make_ready(options, encoder, tokenizer, rows, environment, progress)
    names = {"train": args.train_set_file, "dev": args.similar_text_pair_file}
    run["card"] |= {"script": "retrieval_based/train.py", **describe_data(labels, rows, tokens, names)}
    checkpoint = Checkpoint(encoder, tokenizer, labels, decision, {**run, "corpus": corpus})
    return make_trainer(options, checkpoint, rows, tokens, progress).run(state)


def options_of(args):
    """The `RetrievalOptions` of train.py's arguments."""
    return RetrievalOptions.from_args(
        args, model_name=args.model_name_or_path, warmup_steps=args.warmup_proportion, logging_steps=args.log_steps
    )


def make_trainer(options, checkpoint, rows, tokens, progress):
    """The `Trainer` of an encoder."""
    corpus = make_corpus(checkpoint, options.max_seq_length)
    steps = RetrievalSteps(options, checkpoint, rows["train"], tokens["train"], corpus)
    evaluation = RetrievalEvaluation(options, checkpoint, corpus)
    return RetrievalTrainer(options, checkpoint, rows, tokens, progress, steps, evaluation, RetrievalLog(options))


def make_corpus(checkpoint, max_seq_length):
    """The `LabelCorpus` of the labels that the checkpoint's run names."""
    texts, names = label_entries(checkpoint.labels, checkpoint.run["corpus"])
    ids = np.array([checkpoint.labels.index[name] for (name,) in names])
    return LabelCorpus(names, ids, encode(texts, checkpoint.tokenizer, checkpoint.model, max_seq_length))


def label_sets(rows):
    """{text: indices of the labels of all its rows}.

    A file that repeats a text for each of its labels, as in PaddleNLP's application, trains like one that lists them.
    """
    sets = {}
    for i in range(len(rows)):
        sets.setdefault(rows.texts[i], set()).update(rows.labels_of(i).tolist())
    return sets


def rows_of(sets, path):
    """`Rows` of a dict like that of `label_sets`."""
    texts = Texts()
    for text in sets:
        texts.append(text)
    texts.freeze()
    label_ids = np.array([i for ids in sets.values() for i in sorted(ids)], np.int32)
    offsets = np.cumsum([0, *map(len, sets.values())], dtype=np.int64)
    return Rows(path, texts, np.arange(1, len(sets) + 1, dtype=np.int32), label_ids, offsets, 0, 0)


class RetrievalSteps(Steps):
    """Steps that bring texts near the texts of their labels. The losses are those of pairs of a text and a label."""

    def __init__(self, options, checkpoint, rows, tokens, corpus):
        super().__init__(options, checkpoint, rows, tokens, layer=side_by_side(checkpoint.model))
        self.positives = [deepest(rows.labels_of(i), checkpoint.labels.parents) for i in range(len(rows))]
        self.label_tokens = corpus.tokens
        self.entry = np.full(len(checkpoint.labels), -1)  # of each label
        self.entry[corpus.ids] = np.arange(len(corpus.ids))

    def loss_count(self, batch):
        return sum(len(self.positives[i]) for i in batch)

    def inputs_of(self, batch):
        mine = batch[self.rank :: self.world]
        weight = 1.0 if len(mine) else 0.0
        mine = mine if len(mine) else batch[:1]
        row = np.repeat(np.arange(len(mine)), [len(self.positives[i]) for i in mine])
        positive = np.concatenate([self.positives[i] for i in mine])
        ids, target = np.unique(positive, return_inverse=True)
        gold = self.rows.multi_hot(len(self.checkpoint.labels), mine)[:, ids]
        against = ~gold[row]
        against[np.arange(len(row)), target] = True
        texts, labels = self.tokens.batch(mine), self.label_tokens.batch(self.entry[ids])
        return {
            **{f"text/{name}": values for name, values in texts.items()},
            **{f"label/{name}": values for name, values in labels.items()},
            "row": row,
            "target": target,
            "against": against,
            "weight": np.full(len(row), weight, np.float32),
        }

    def losses(self, inputs):
        """One loss per pair: float32 tensor [pairs].

        inputs: the tokens; "row", "target": int64 [pairs], the pair's text and label among those of the batch;
        "against": bool [pairs, labels], that label and those it is compared with.
        """
        texts, labels = (
            {name[len(side) :]: value for name, value in inputs.items() if name.startswith(side)}
            for side in ("text/", "label/")
        )
        return in_batch_losses(
            *self.layer(texts, labels),
            inputs["row"],
            inputs["target"],
            inputs["against"],
            self.options.margin,
            self.options.scale,
        )


class RetrievalEvaluation(Evaluation):
    """Scores an encoder by the labels nearest to each text."""

    def __init__(self, options, checkpoint, corpus):
        super().__init__(options, checkpoint, loss=None)
        self.corpus = corpus

    def vectors(self, tokens):
        """Unit vectors of tokenised texts, each process computing its share: float32 array [rows, width]."""
        return all_reduce(embed(self.checkpoint.model, tokens, self.options.batch_size, self.share(tokens)))

    def evaluate(self, rows, tokens, fit=True):
        """Recall among the nearest labels, the scores of the labels predicted from them, and the threshold."""
        options, checkpoint = self.options, self.checkpoint
        labels, parents = checkpoint.labels, checkpoint.labels.parents
        queries, entries = self.vectors(tokens), self.vectors(self.corpus.tokens)
        cosines, nearest = Neighbours(entries, index=False).search(queries, options.recall_num)
        found = Found(cosines, [[self.corpus.names[i] for i in row] for row in nearest])
        gold, cosines = rows.multi_hot(len(labels)), label_scores(found, labels)
        if fit and options.threshold is None:
            threshold = fit_within(checkpoint.decision, cosines, gold, parents, options.metric_for_best)
            checkpoint.decision = replace(checkpoint.decision, threshold=threshold)
        predicted = checkpoint.decision.decide(cosines, parents)
        self.sets = gold, {"": predicted}
        cutoffs = [n for n in CUTOFFS if n <= options.recall_num]
        recalls = recall_at(deepest_gold(rows, labels), self.corpus.ids[nearest], cutoffs)
        return {
            **{f"recall@{n}": value for n, value in recalls.items()},
            **scores(gold, predicted),
            "threshold": checkpoint.decision.threshold,
        }


class RetrievalLog(TrainingLog):
    def log_scores(self, scores):
        logger.info("eval %s", ", ".join(f"{name.replace('_', ' ')}: {value:.5f}" for name, value in scores.items()))

    def end(self, best_score):
        if self.options.evaluate:
            logger.info("Final best %s: %.5f", self.metric_name, best_score)
        logger.info("The encoder is saved in %s", self.options.save_dir)
        self.track_result()


class RetrievalTrainer(Trainer):
    """Keeps the best checkpoint, or without evaluation the latest."""

    def evaluate_and_keep(self):
        if self.options.evaluate:
            super().evaluate_and_keep()
        else:
            self.save(self.options.save_dir)

    def after_step(self):
        super().after_step()
        if not self.options.evaluate and self.progress.step % self.options.save_steps == 0:
            self.save(self.options.save_dir)


def fit_within(decision, scores, gold, parents, metric):
    """The threshold that is best for a metric, the rest of the decision unchanged; in a tie, the one nearest to 0.5.

    A cosine is not a probability: its scale depends on the data, the margin and the length of training.
    """
    grid, step = GRID[1::2], -(-scores.size // MOST_CELLS)
    scores, gold = scores[::step], gold[::step]
    decided = (replace(decision, threshold=float(threshold)).decide(scores, parents) for threshold in grid)
    values = np.array([value_of(gold, predicted, OBJECTIVE[metric]) for predicted in decided])
    best = np.flatnonzero(values >= values.max() - 1e-12)
    return float(grid[best[np.argmin(np.abs(grid[best] - 0.5))]])


def side_by_side(encoder):
    """A Paddle layer that encodes texts and labels in one pass: DataParallel wants one pass per step."""
    import paddle

    class SideBySide(paddle.nn.Layer):
        def __init__(self):
            super().__init__()
            self.encoder = encoder

        def forward(self, texts, labels):
            return self.encoder(**texts), self.encoder(**labels)

    return SideBySide()


def in_batch_losses(texts, labels, row, target, against, margin, scale):
    """Cross-entropy of each pair's label among those it is compared with.

    Args:
        texts, labels: float32 tensors [texts, width] and [labels, width] of unit vectors.
        row, target: int64 tensors [pairs], the text and the label of each pair.
        against: bool tensor [pairs, labels], True for the pair's label and for its negatives.
        margin: subtracted from the cosine of the pair.
        scale: factor of all cosines.
    Returns:
        float32 tensor [pairs].
    """
    import paddle
    import paddle.nn.functional as F

    cosines = paddle.matmul(texts, labels, transpose_y=True).index_select(row)
    cosines = cosines - margin * F.one_hot(target, labels.shape[0])
    logits = paddle.where(against, scale * cosines, paddle.full_like(cosines, -1e9))
    return F.cross_entropy(logits, target, reduction="none")
