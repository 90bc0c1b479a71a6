"""How an encoder learns: texts near the texts of their labels, far from those of the other labels of their batch.

Texts of a batch are compared with its labels, each label encoded once. The loss of a pair of a text and one of its
labels is the cross-entropy of that label among the batch's, the cosine of the pair less a margin, all times a scale.
Labels that the text has otherwise, by any of its rows, are left out: they are no negatives. Of several processes, each
compares its own share of a batch: negatives do not cross cards, as in the older suite.
"""

from argparse import Namespace
from dataclasses import replace

import numpy as np

from encoder import KIND, embed, load_encoder
from metric import recall_at
from text_cls.batching import sorted_batches
from text_cls.cli import logger
from text_cls.cross_fitting import value_of
from text_cls.neural.checkpoint import Checkpoint, last_folder
from text_cls.neural.model import encode
from text_cls.neural.run_state import start_run
from text_cls.neural.training import Trainer, make_ready
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
MOST_CELLS = 20_000_000  # scores that a threshold is fitted to: some seconds on one core
OBJECTIVE = {"recall@1": "micro", "micro_f1": "micro", "macro_f1": "macro", "accuracy": "exact"}  # of the threshold
# What the loop has flags for elsewhere.
FIXED = {
    "gradient_accumulation_steps": 1,
    "amp": None,
    "early_stop": False,
    "early_stop_nums": 1,
    "warmup": False,
    "length_buckets": True,
    "num_workers": 0,
    "save_minutes": 10,
    "visualdl_dir": None,
}


def train(args, labels, rows, environment):
    """Runs train.py's arguments on checked data. Returns the exit status: 0, or 128 + the signal that stopped it."""
    corpus = [labels.names[i] for i in corpus_labels(labels, rows["train"])]
    sets = label_sets(rows["train"])
    decision = default_decision(labels, rows_of(sets, args.train_set_file))
    if args.threshold is not None:
        decision = replace(decision, threshold=args.threshold)
    rows["train"] = rows_of({text: ids for text, ids in sets.items() if ids}, args.train_set_file)
    if args.metric_for_best is None:
        args.metric_for_best = "recall@1" if decision.hierarchy == "one_per_level" else "macro_f1"
    names = [args.corpus_file, args.train_set_file, *([args.similar_text_pair_file] if args.evaluate else [])]
    run, progress = start_run(args, {name: name for name in names}, KIND)
    if progress.finished:
        return 0
    logger.info("%d different texts with labels to learn from, %d labels as corpus", len(rows["train"]), len(corpus))
    last = last_folder(args.save_dir)
    encoder, tokenizer = load_encoder(last if progress.step else args.model_name_or_path, args.output_emb_size)
    tokens = make_ready(args, encoder, tokenizer, rows, environment, progress)
    checkpoint = Checkpoint(encoder, tokenizer, labels, decision, {**run, "corpus": corpus})
    settings = {"warmup_steps": args.warmup_proportion, "logging_steps": args.log_steps, **FIXED}
    trainer = RetrievalTrainer(Namespace(**vars(args), **settings), checkpoint, rows, tokens, progress, last)
    trainer.rehearse()
    return trainer.run_all()


def label_sets(rows):
    """{text: indices of the labels of all its rows}.

    So a file that repeats a text once for each of its labels, as the older suite's, trains as one that names them all.
    """
    sets = {}
    for i in range(len(rows)):
        sets.setdefault(rows.texts[i], set()).update(rows.labels_of(i).tolist())
    return sets


def rows_of(sets, path):
    """`Rows` of such a dict."""
    texts = Texts()
    for text in sets:
        texts.append(text)
    texts.freeze()
    label_ids = np.array([i for ids in sets.values() for i in sorted(ids)], np.int32)
    offsets = np.cumsum([0, *map(len, sets.values())], dtype=np.int64)
    return Rows(path, texts, np.arange(1, len(sets) + 1, dtype=np.int32), label_ids, offsets, 0, 0)


class RetrievalTrainer(Trainer):
    """Trains an encoder by the loop of `training.py`."""

    def prepare(self):
        rows, parents = self.rows["train"], self.checkpoint.labels.parents
        self.positives = [deepest(rows.labels_of(i), parents) for i in range(len(rows))]
        texts, self.corpus = label_entries(self.checkpoint.labels, self.checkpoint.run["corpus"])
        self.corpus_ids = np.array([self.checkpoint.labels.index[name] for (name,) in self.corpus])
        self.column = np.full(len(self.checkpoint.labels), -1)
        self.column[self.corpus_ids] = np.arange(len(self.corpus_ids))
        self.label_tokens = encode(texts, self.checkpoint.tokenizer, self.model, self.args.max_seq_length)
        return side_by_side(self.model)

    # ------------------------------------------------------------------------------------------------------- a step

    def size(self, batch):
        """Pairs of a text and one of its labels."""
        return sum(len(self.positives[i]) for i in batch)

    def inputs_of(self, batch):
        mine = batch[self.rank :: self.world]
        weight = 1.0 if len(mine) else 0.0
        mine = mine if len(mine) else batch[:1]
        row = np.repeat(np.arange(len(mine)), [len(self.positives[i]) for i in mine])
        positive = np.concatenate([self.positives[i] for i in mine])
        ids, target = np.unique(positive, return_inverse=True)
        gold = self.rows["train"].multi_hot(len(self.checkpoint.labels), mine)[:, ids]
        against = ~gold[row]
        against[np.arange(len(row)), target] = True
        texts, labels = self.tokens["train"].batch(mine), self.label_tokens.batch(self.column[ids])
        return {
            **{f"text/{name}": values for name, values in texts.items()},
            **{f"label/{name}": values for name, values in labels.items()},
            "row": row,
            "target": target,
            "against": against,
            "weight": np.full(len(row), weight, np.float32),
        }

    def losses(self, inputs):
        """A loss a pair: float32 tensor [pairs].

        inputs: the tokens; "row", "target": int64 [pairs], its text and its label among the batch's; "against": bool
        [pairs, labels], that label and those that it is compared with.
        """
        texts, labels = (
            {name[len(side) :]: value for name, value in inputs.items() if name.startswith(side)}
            for side in ("text/", "label/")
        )
        return in_batch_losses(
            *self.wrapped(texts, labels),
            inputs["row"],
            inputs["target"],
            inputs["against"],
            self.args.margin,
            self.args.scale,
        )

    # --------------------------------------------------------------------------------------------------- evaluation

    def vectors(self, tokens):
        """Unit vectors of tokenised texts, each process computing its share: float32 array [rows, width]."""
        mine = sorted_batches(tokens.lengths, self.args.batch_size)[self.rank :: self.world]
        return self.whole(embed(self.model, tokens, self.args.batch_size, mine))

    def evaluate(self, split):
        """Recall among the nearest labels, and the report on what is decided by them."""
        labels, rows = self.checkpoint.labels, self.rows[split]
        queries, corpus = self.vectors(self.tokens[split]), self.vectors(self.label_tokens)
        cosines, entries = Neighbours(corpus, index=False).search(queries, self.args.recall_num)
        found = Found(cosines, [[self.corpus[i] for i in row] for row in entries])
        gold = rows.multi_hot(len(labels))
        cosines = label_scores(found, labels)
        if self.args.threshold is None:
            threshold = fit_within(self.checkpoint.decision, cosines, gold, labels.parents, self.args.metric_for_best)
            self.checkpoint.decision = replace(self.checkpoint.decision, threshold=threshold)
        predicted = self.checkpoint.decision.decide(cosines, labels.parents)
        cutoffs = [n for n in CUTOFFS if n <= self.args.recall_num]
        recalls = recall_at(deepest_gold(rows, labels), self.corpus_ids[entries], cutoffs)
        return {
            **{f"recall@{n}": value for n, value in recalls.items()},
            **scores(gold, predicted),
            "threshold": self.checkpoint.decision.threshold,
        }

    def evaluate_and_keep(self):
        if self.args.evaluate:
            super().evaluate_and_keep()
        else:
            self.save(self.args.save_dir)

    def log_scores(self, scores):
        logger.info("eval %s", ", ".join(f"{name.replace('_', ' ')}: {value:.5f}" for name, value in scores.items()))

    def after_step(self):
        super().after_step()
        if not self.args.evaluate and self.progress.step % self.args.save_steps == 0:
            self.save(self.args.save_dir)

    def log_end(self):
        if self.args.evaluate:
            logger.info("Final best %s: %.5f", self.metric_name, self.progress.best_score)
        logger.info("The encoder is saved in %s", self.args.save_dir)


def fit_within(decision, scores, gold, parents, metric):
    """The threshold that serves a metric best, all else of the decision as it is; of equals, that nearest to 0.5.

    A cosine is no probability: with other data, margin or length of training, other ones mean the same.
    """
    grid, step = GRID[1::2], -(-scores.size // MOST_CELLS)
    scores, gold = scores[::step], gold[::step]
    decided = (replace(decision, threshold=float(threshold)).decide(scores, parents) for threshold in grid)
    values = np.array([value_of(gold, predicted, OBJECTIVE[metric]) for predicted in decided])
    best = np.flatnonzero(values >= values.max() - 1e-12)
    return float(grid[best[np.argmin(np.abs(grid[best] - 0.5))]])


def side_by_side(encoder):
    """A Paddle layer of two encodings in one pass, which is what a step of several processes is made of."""
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
        margin: taken from the cosine of the pair. scale: of all cosines.
    Returns:
        float32 tensor [pairs].
    """
    import paddle
    import paddle.nn.functional as F

    cosines = paddle.matmul(texts, labels, transpose_y=True).index_select(row)
    cosines = cosines - margin * F.one_hot(target, labels.shape[0])
    logits = paddle.where(against, scale * cosines, paddle.full_like(cosines, -1e9))
    return F.cross_entropy(logits, target, reduction="none")
