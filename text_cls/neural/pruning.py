"""Pruning to narrower layers by PaddleNLP's DynaBERT, on this project's rows, batches, metrics and decision.

Only this module imports Paddle when it is imported, since its trainer is a PaddleNLP `Trainer`.
"""

from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from text_cls.batching import shuffled_batches, sorted_batches
from text_cls.cli import logger
from text_cls.language import tr
from text_cls.long_texts import Windows, pool
from text_cls.neural.compat import import_paddle, patch_dynabert, upstream_log, whole_paddlenlp
from text_cls.neural.head_start import fit_head
from text_cls.neural.model import last_linear, logits_of, predict_logits
from text_cls.neural.training_options import Options
from text_cls.neural.windows import encode_long
from text_cls.probabilities import sigmoid
from text_cls.scores import scores

paddle = import_paddle()
whole_paddlenlp()

from paddle.io import DataLoader
from paddlenlp.trainer import CompressionArguments, Trainer


@dataclass(kw_only=True)
class PruningOptions(Options):
    """The options of `prune.py`, with its defaults; its help explains them."""

    width_mult_list: list[Fraction]
    max_seq_length: int = 128
    device: str = "gpu"
    learning_rate: float = 5e-5
    num_train_epochs: int = 10
    per_device_train_batch_size: int = 32
    per_device_eval_batch_size: int = 32
    logging_steps: int = 100
    save_steps: int = 100
    refit_head: bool = True
    seed: int = 3

    @property
    def batch_size(self):
        """Rows that are scored together, as other modules call it."""
        return self.per_device_eval_batch_size


def prune(checkpoint, rows, options, work, export):
    """Trains a model's layers at all widths together.

    Args:
        checkpoint: `Checkpoint` with model and tokenizer. Its model is changed.
        rows: {"train", "dev": labelled `Rows`}.
        work: folder for files that may be deleted afterwards.
        export: function of (width, pruned model), called with the best model of each width, in all processes.
    """

    def refit_and_export(width, model):
        if options.refit_head:
            refit_head(options, width, replace(checkpoint, model=model), rows, trainer.tokens)
        export(width, model)

    patch_dynabert(refit_and_export)
    trainer = PruningTrainer(checkpoint, rows, options, work)
    with upstream_log():
        trainer.compress(custom_evaluate=PruningTrainer.macro_f1)


def refit_head(options, width, checkpoint, rows, tokens):
    """Fits the classifier of a pruned model to the training rows, and keeps it if its macro F1 on dev is higher.

    The narrower layers give other features, and distillation may end before the classifier has followed.

    Args:
        checkpoint: `Checkpoint` with the pruned model. Both classifiers are scored with its decision, which stays.
        rows, tokens: {"train", "dev": labelled `Rows`, or their tokens}. All processes compute the features together.
    """
    layer = last_linear(checkpoint.model)

    def score():
        logits = predict_logits(checkpoint.model, tokens["dev"], options.batch_size)
        return dev_scores(checkpoint, logits, rows["dev"].multi_hot(len(checkpoint.labels)))

    before, trained = {name: value.clone() for name, value in layer.state_dict().items()}, score()
    how, fitted = fit_head(options, checkpoint, rows["train"], tokens["train"]), score()
    better = fitted["macro_f1"] > trained["macro_f1"]
    if not better:
        layer.set_state_dict(before)
    logger.info(
        "Width %s, F1 on dev (micro, macro): %.2f, %.2f with the trained classifier; %.2f, %.2f with a fitted one: %s. "
        "%s",
        round(width, 2),
        *(100 * found[name] for found in (trained, fitted) for name in ("micro_f1", "macro_f1")),
        how,
        tr("The fitted one is kept") if better else tr("The trained one is kept"),
    )


def dev_scores(checkpoint, logits, gold):
    """Scores of logits [rows, labels] by the checkpoint's decision. gold: bool array of the same shape."""
    return scores(gold, checkpoint.decision.decide(sigmoid(logits), checkpoint.labels.parents))


class EpochBatches:
    """This process's shares of training batches. They are of similar length: on a CPU, padding costs most.

    Each iteration is an epoch and draws other batches. batch_size: rows per process.
    """

    def __init__(self, lengths, batch_size, seed):
        self.lengths, self.seed, self.epoch = lengths, seed, -1
        self.rank, self.world = paddle.distributed.get_rank(), paddle.distributed.get_world_size()
        self.rows = batch_size * self.world

    def __len__(self):
        return -(-len(self.lengths) // self.rows)

    def __iter__(self):
        self.epoch += 1
        for batch in shuffled_batches(self.lengths, self.rows, [self.seed, self.epoch]):
            share = batch[self.rank :: self.world]
            yield share if len(share) else batch[:1]


class PruningTrainer(Trainer):
    """PaddleNLP's trainer, whose compress() prunes. The arguments are those of `prune`.

    Each window of a long text is an input of its own: the logits of the whole model are the targets for it.
    """

    def __init__(self, checkpoint, rows, options, work):
        self.checkpoint, self.rows, self.options = checkpoint, rows, options
        model, tokenizer, how = checkpoint.model, checkpoint.tokenizer, checkpoint.long_texts
        self.tokens = {
            split: encode_long(part.texts, tokenizer, model, options.max_seq_length, how)
            for split, part in rows.items()
        }
        self.targets = {split: self.make_targets(split) for split in rows}
        self.inputs = {
            split: tokens.tokens if isinstance(tokens, Windows) else tokens for split, tokens in self.tokens.items()
        }
        self.train_batches = EpochBatches(
            self.inputs["train"].lengths, options.per_device_train_batch_size, options.seed
        )
        super().__init__(
            model=checkpoint.model,
            criterion=paddle.nn.BCEWithLogitsLoss(),
            args=compression_arguments(options, work, len(self.train_batches)),
            tokenizer=checkpoint.tokenizer,
            train_dataset=range(len(self.inputs["train"])),
            eval_dataset=range(len(self.inputs["dev"])),
            data_collator=list,
        )

    def make_targets(self, split):
        """Labels of the inputs: float32 array [inputs, labels]. compress() only uses those of dev, to order the heads.

        A label of a long text need not show in each of its windows, so that they have the model's probabilities.
        """
        tokens, rows = self.tokens[split], self.rows[split]
        if not isinstance(tokens, Windows):
            return rows.multi_hot(len(self.checkpoint.labels), dtype=np.float32)
        if split == "train":
            return np.zeros((len(tokens.tokens), 1), dtype=np.float32)
        return sigmoid(predict_logits(self.checkpoint.model, tokens.tokens, self.options.batch_size))

    def inputs_of(self, split, chosen):
        inputs = self.inputs[split].batch(np.array(chosen))
        inputs.pop("attention_mask", None)  # compress() replaces the forward pass by one that makes its own
        return {**inputs, "labels": self.targets[split][chosen]}

    def loader(self, split, batches):
        numbers = range(len(self.inputs[split]))
        return DataLoader(numbers, batch_sampler=batches, collate_fn=lambda chosen: self.inputs_of(split, chosen))

    def get_train_dataloader(self):
        return self.loader("train", self.train_batches)

    def dev_batches(self):
        return sorted_batches(self.inputs["dev"].lengths, self.options.per_device_eval_batch_size)

    def get_eval_dataloader(self, eval_dataset=None):
        return self.loader("dev", self.dev_batches())

    @paddle.no_grad()
    def macro_f1(self, model, batches):
        """Macro F1 of the whole model or of a width, by this project's metric and the checkpoint's decision."""
        model.eval()
        tokens, count = self.tokens["dev"], len(self.checkpoint.labels)
        logits = np.zeros((len(self.inputs["dev"]), count), dtype=np.float32)
        for chosen, batch in zip(self.dev_batches(), batches, strict=True):
            batch.pop("labels")
            logits[chosen] = logits_of(model, batch).numpy()
        model.train()
        if isinstance(tokens, Windows):
            logits = pool(logits, tokens.counts, tokens.pooling)
        found = dev_scores(self.checkpoint, logits, self.rows["dev"].multi_hot(count))
        logger.info("micro f1 score: %.5f, macro f1 score: %.5f", found["micro_f1"], found["macro_f1"])
        return found["macro_f1"] + 1e-9  # compress() keeps what is better than 0; a score of 0 must be kept as well


def compression_arguments(options, work, steps_per_epoch):
    """PaddleNLP's arguments of compress()."""
    return CompressionArguments(
        output_dir=work,
        strategy="dynabert",
        device=options.device,
        seed=options.seed,
        learning_rate=options.learning_rate,
        num_train_epochs=options.num_train_epochs,
        logging_steps=options.logging_steps,
        # A run shorter than save_steps would have nothing to export.
        save_steps=min(options.save_steps, options.num_train_epochs * steps_per_epoch),
        width_mult_list=[repr(float(value)) for value in options.width_mult_list],
        disable_tqdm=True,
    )
