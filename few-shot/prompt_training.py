"""Training of a prompt model: a run of PaddleNLP's PromptTrainer on this project's batches, losses and scores.

Batches are drawn from (seed, epoch) and dropout from (seed, step), so that a run resumed from a checkpoint ends exactly
as one that was never interrupted. This module imports Paddle: import it after `compat.import_paddle()`.
"""

import os
import shutil
import time

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle.io import DataLoader
from paddlenlp.prompt import PromptTrainer, PromptTuningArguments
from paddlenlp.trainer import Trainer, TrainerCallback, TrainerState

from prompt_checkpoints import checkpoints_in, record_sums
from text_cls.batching import shuffled_batches
from text_cls.card_facts import changed_arguments, describe_data, describe_scores, in_words
from text_cls.cli import logger
from text_cls.decision import Decision
from text_cls.language import N_, tr
from text_cls.neural.weights import load_weights
from text_cls.probabilities import sigmoid
from text_cls.scores import scores
from text_cls.terminal import progress_bar

NO_CLIPPING = 1e30  # PaddleNLP's prompt trainer (2.8) would scale all gradients to 0 with a limit of 0

# Flags that PaddleNLP's trainer has under the same name.
SAME_FLAGS = (
    *("device", "seed", "logging_steps", "max_seq_length", "learning_rate", "per_device_train_batch_size"),
    *("lr_scheduler_type", "warmup_steps", "warmup_ratio"),
    *("evaluation_strategy", "save_strategy", "load_best_model_at_end"),
    *("freeze_plm", "freeze_dropout", "use_rdrop", "alpha_rdrop", "use_rgl", "alpha_rgl"),
    *("ppt_learning_rate", "ppt_weight_decay", "ppt_adam_beta1", "ppt_adam_beta2", "ppt_adam_epsilon"),
)


def score(task, encoded, rows, labels, batch_size, decision):
    """Loss (mean binary cross-entropy), micro and macro F1, and accuracy (exact label sets) on labelled rows."""
    logits, gold = task.logits(encoded, batch_size), rows.multi_hot(len(labels))
    loss = np.maximum(logits, 0) - logits * gold + np.log1p(np.exp(-np.abs(logits)))
    found = scores(gold, decision.decide(sigmoid(logits), labels.parents))
    return {
        "loss": float(loss.mean()),
        "micro_f1_score": found["micro_f1"],
        "macro_f1_score": found["macro_f1"],
        "accuracy": found["accuracy"],
    }


def divergence(logits, others):
    """R-Drop's term (Liang et al. 2021, https://arxiv.org/abs/2106.14448) for sigmoids: the symmetric Kullback-Leibler
    divergence of two passes, each label a distribution of its own. PaddleNLP's takes a softmax over the labels."""
    return ((F.sigmoid(logits) - F.sigmoid(others)) * (logits - others)).mean() / 2


def consistency(vectors, labels):
    """RGL's loss (Wang et al. 2022, https://aclanthology.org/2022.findings-naacl.81): rows with equal label sets should
    be similar at the mask, others not. PaddleNLP's (2.8) compares arrays as numbers, and all tokens, not the mask.

    Args:
        vectors: float tensor [rows, width]. labels: 0/1 tensor [rows, labels].
    """
    vectors, rows = F.normalize(vectors, axis=1), len(labels)
    same = (labels.unsqueeze(0) == labels.unsqueeze(1)).all(axis=-1).astype(vectors.dtype)
    loss = F.binary_cross_entropy_with_logits(100 * vectors @ vectors.T, same, reduction="sum")
    return loss / max(1, rows * (rows - 1)) / 100


# -------------------------------------------------------------------------------------------------------------- the run


class PromptRun:
    """One training of a task's model, in place.

    Args:
        task: `PromptTask`. args: of train.py. rows: {"train", "dev": `Rows`}. folder: for the trainer's checkpoints.
        trackers: `Trackers`.
    """

    def __init__(self, task, args, rows, folder, trackers):
        self.task, self.args, self.rows, self.folder, self.trackers = task, args, rows, folder, trackers
        self.tokens = {split: task.encode(part.texts, args.max_seq_length) for split, part in rows.items()}
        for split, encoded in self.tokens.items():
            mean, cut = encoded.lengths.mean(), 100 * encoded.truncated / len(encoded)
            logger.info("%s: %.1f tokens per row, %.1f%% of the rows cut at %d", split, mean, cut, args.max_seq_length)
        self.batches = Batches(self.tokens["train"].lengths, args.per_device_train_batch_size, args.seed)
        self.steps = args.max_steps if args.max_steps > 0 else len(self.batches) * args.num_train_epochs
        self.metric = f"eval_{args.metric_for_best_model}"
        self.trainer = self.bar = self.seconds = None

    def train(self, checkpoint):
        """Trains to the end, from one of the trainer's checkpoints, or from the start if `checkpoint` is None.

        Then the model is the best one if `args.load_best_model_at_end`, else the last one.
        """
        state = TrainerState.load_from_json(os.path.join(checkpoint, "trainer_state.json")) if checkpoint else None
        done = state.global_step if state else 0
        logger.info(
            "Training: %d steps at most%s", self.steps, tr(", resuming at step {done}", done=done) if done else ""
        )
        self.trainer, started = RunTrainer(self), time.perf_counter()
        if state and (done >= self.steps or self.patience_is_over(state)):  # PaddleNLP (2.8) would take another step
            self.trainer.state = state
            saved = self.best_checkpoint(state) if self.args.load_best_model_at_end else checkpoint
            load_weights(self.task.model, os.path.join(saved, "model_state.pdparams"), "--resume_from_checkpoint")
        else:
            with progress_bar(self.steps, N_("steps"), initial=done) as self.bar:
                self.trainer.train(checkpoint)
        self.seconds = time.perf_counter() - started

    def result(self):
        """{"steps", "seconds", "losses": those logged, "history": scores on dev, "best": score or None}."""
        history = self.trainer.state.log_history
        return {
            "steps": self.trainer.state.global_step,
            "seconds": self.seconds,
            "losses": [entry["loss"] for entry in history if "learning_rate" in entry],
            "history": [entry for entry in history if self.metric in entry],
            "best": max((entry[self.metric] for entry in history if self.metric in entry), default=None),
        }

    def describe(self, defaults):
        """The facts for the model card of a run that has ended. defaults: of train.py's arguments, as a dict."""
        args, labels, decision = self.args, self.task.prompt.labels, Decision()
        logits = self.task.logits(self.tokens["dev"], args.per_device_eval_batch_size)
        gold, predicted = self.rows["dev"].multi_hot(len(labels)), decision.decide(sigmoid(logits), labels.parents)
        return {
            "script": "few-shot/train.py",
            "changed": changed_arguments(vars(args), defaults),
            **describe_data(labels, self.rows, self.tokens, {split: f"{split}.txt" for split in self.rows}),
            "scores": {"dev": describe_scores(gold, predicted, args.seed)},
            "decided": in_words(decision),
            "seconds": round(self.seconds, 1),
        }

    def arguments(self):
        """The arguments of PaddleNLP's trainer."""
        args, adam = self.args, {"weight_decay": self.args.weight_decay}
        if args.freeze_plm:  # PaddleNLP (2.8) would then apply the model's to soft tokens and label words
            adam = {name: getattr(args, f"ppt_{name}") for name in (*adam, "adam_beta1", "adam_beta2", "adam_epsilon")}
        return PromptTuningArguments(
            output_dir=self.folder,
            do_train=True,
            do_eval=True,
            disable_tqdm=True,
            report_to=[],
            max_steps=self.steps,
            max_grad_norm=args.max_grad_norm or NO_CLIPPING,
            eval_steps=min(args.eval_steps or self.steps, self.steps),
            save_steps=min(args.save_steps or self.steps, self.steps),
            metric_for_best_model="choice",
            greater_is_better=True,
            **adam,
            **{name: getattr(args, name) for name in SAME_FLAGS},
        )

    def inputs(self, chosen):
        """Input arrays and labels of the training rows with these numbers."""
        labels = self.rows["train"].multi_hot(len(self.task.prompt.labels), chosen, np.float32)
        return {**self.task.inputs(self.tokens["train"], np.array(chosen)), "labels": labels}

    def evaluate(self):
        """Scores on dev as {"eval_<name>": value}; "eval_choice" is what the best model is chosen by."""
        args, labels = self.args, self.task.prompt.labels
        found = score(
            self.task, self.tokens["dev"], self.rows["dev"], labels, args.per_device_eval_batch_size, Decision()
        )
        metrics = {f"eval_{name}": value for name, value in found.items()}
        # On few rows many models have the same score, at first 0: of these, the one with the lower loss is better.
        # (min(1, NaN) is 1.)
        metrics["eval_choice"] = found[args.metric_for_best_model] - 1e-6 * min(1, found["loss"])
        return metrics

    def best_checkpoint(self, state):
        """The checkpoint of the best model. Its folder may have moved since the state recorded its path."""
        return os.path.join(self.folder, os.path.basename(state.best_model_checkpoint))

    def best_score(self, state):
        """The best score so far, and the number of evaluations since."""
        history = [entry for entry in state.log_history if self.metric in entry]
        best = int(np.argmax([entry["eval_choice"] for entry in history]))
        return history[best][self.metric], len(history) - 1 - best

    def patience_is_over(self, state):
        """Whether the run should stop early."""
        if not self.args.load_best_model_at_end:
            return False
        best, since = self.best_score(state)
        return best > 0 and since >= self.args.early_stopping_patience  # with a score of 0 nothing has been learnt yet


class Batches:
    """Row numbers of the batches of an epoch; each epoch has different batches."""

    def __init__(self, lengths, batch_size, seed):
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0

    def __len__(self):
        return -(-len(self.lengths) // self.batch_size)

    def __iter__(self):
        return iter(shuffled_batches(self.lengths, self.batch_size, [self.seed, self.epoch]))


# -------------------------------------------------------------------------------------------------- PaddleNLP's trainer


class RunTrainer(PromptTrainer):
    """Trains the model of a `PromptRun` on its rows, and scores it as the run does."""

    def __init__(self, run):
        super().__init__(
            model=run.task.model,
            tokenizer=run.task.tokenizer,
            criterion=paddle.nn.BCEWithLogitsLoss(),
            args=run.arguments(),
            train_dataset=range(len(run.rows["train"])),
            data_collator=list,
            callbacks=[RunCallback(run)],
        )
        self.run, self.rdrop_criterion = run, divergence

    def _map_dataset(self, dataset):
        return dataset

    def get_train_dataloader(self):
        return DataLoader(self.train_dataset, batch_sampler=self.run.batches, collate_fn=self.run.inputs)

    def compute_loss(self, model, inputs, return_outputs=False):
        self.masks = inputs["masked_positions"]
        return super().compute_loss(model, inputs, return_outputs)

    def _compute_rgl_loss(self, embeddings, labels, equal_type="raw"):
        vectors = paddle.gather(embeddings.reshape([-1, embeddings.shape[-1]]), self.masks)
        return self.args.alpha_rgl * consistency(vectors, labels)

    def evaluate(self, *_, **__):
        metrics = self.run.evaluate()
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _save(self, output_dir=None, state_dict=None, merge_tensor_parallel=False):
        os.makedirs(output_dir, exist_ok=True)
        paddle.save(self.model.state_dict(), os.path.join(output_dir, "model_state.pdparams"))

    def _load_from_checkpoint(self, resume_from_checkpoint=None):
        Trainer._load_from_checkpoint(self, resume_from_checkpoint)  # PromptTrainer's loads the template, which we have

    def _load_rng_state(self, checkpoint):
        pass  # RunCallback seeds every step


class RunCallback(TrainerCallback):
    """Sets the random seeds of epochs and steps, logs, deletes old checkpoints, and stops early."""

    def __init__(self, run):
        self.run = run

    def on_train_begin(self, _, state, control, **__):
        if state.best_model_checkpoint:
            state.best_model_checkpoint = self.run.best_checkpoint(state)

    def on_epoch_begin(self, _, state, control, **__):
        self.run.batches.epoch = state.global_step // len(self.run.batches)

    def on_step_begin(self, _, state, control, **__):
        paddle.seed(self.run.args.seed * 1_000_003 + state.global_step)

    def on_step_end(self, _, state, control, **__):
        self.run.bar.update(1)

    def on_save(self, _, state, control, **__):
        """Keeps the best and the last --save_total_limit: in a single process, PaddleNLP (2.8) keeps all."""
        saved = checkpoints_in(self.run.folder)
        kept = [path for step, path in saved.items() if step <= state.global_step][-self.run.args.save_total_limit :]
        kept += [self.run.best_checkpoint(state)] if state.best_model_checkpoint else []
        record_sums(self.run.folder, kept, saved[state.global_step])
        for path in saved.values():
            if path not in kept:
                shutil.rmtree(path)

    def on_log(self, _, state, control, logs, **__):
        if "learning_rate" in logs:
            logger.info(
                "global step %d, epoch: %.2f, loss: %.5f, learning rate: %.2e, speed: %.2f step/s",
                state.global_step,
                state.epoch,
                logs["loss"],
                logs["learning_rate"],
                logs["interval_steps_per_second"],
            )
            for name in ("loss", "learning_rate"):
                self.run.trackers.scalar(f"train/{name}", logs[name], state.global_step)

    def on_evaluate(self, _, state, control, metrics, **__):
        logger.info(
            "eval loss: %.5f, micro f1 score: %.5f, macro f1 score: %.5f",
            *(metrics[f"eval_{name}"] for name in ("loss", "micro_f1_score", "macro_f1_score")),
        )
        for name in ("loss", "micro_f1_score", "macro_f1_score", "accuracy"):
            self.run.trackers.scalar(f"dev/{name}", metrics[f"eval_{name}"], state.global_step)
        logger.info("Current best %s: %.5f", self.run.args.metric_for_best_model, self.run.best_score(state)[0])
        if self.run.patience_is_over(state):
            logger.info("Early stop!")
            control.should_training_stop = True
