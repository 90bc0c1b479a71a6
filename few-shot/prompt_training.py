"""Training of a prompt model by PaddleNLP's PromptTrainer: batches, scores, log lines, early stop, going on.

Batches are drawn from (seed, epoch) and dropout from (seed, step), so that a run that goes on from a checkpoint of the
trainer ends as one that was never stopped.
"""

import os
import shutil
import time

import numpy as np

from text_cls.batching import shuffled_batches
from text_cls.cli import Problems, UserError, logger, progress_bar
from text_cls.decision import Decision
from text_cls.neural.checkpoint import last_folder, read_run
from text_cls.probabilities import sigmoid
from text_cls.scores import scores

STATE = ("model_state.pdparams", "optimizer.pdopt", "scheduler.pdparams", "trainer_state.json", "rng_state.pth")
NO_CLIPPING = 1e30  # PaddleNLP's prompt trainer (2.8) would cut all gradients to 0 by a limit of 0

# Flags that may differ when a run goes on: they do not change what is learnt.
FREE_ON_RESUME = {
    "data_dir",
    "device",
    "do_eval",
    "do_export",
    "do_predict",
    "early_stopping_patience",
    "export_type",
    "logging_steps",
    "output_dir",
    "per_device_eval_batch_size",
    "resume_from_checkpoint",
    "save_total_limit",
}


def checkpoints_in(folder):
    """{step: path} of the trainer's checkpoints, in order."""
    names = os.listdir(folder) if os.path.isdir(folder) else []
    steps = sorted(int(name[11:]) for name in names if name.startswith("checkpoint-") and name[11:].isdigit())
    return {step: os.path.join(folder, f"checkpoint-{step}") for step in steps}


def latest_checkpoint(folder):
    """A checkpoint of the trainer: the folder itself, or the newest whole one in it; None where there is none."""
    folders = checkpoints_in(folder).values()
    whole = [path for path in (folder, *folders) if all(os.path.exists(os.path.join(path, name)) for name in STATE)]
    return whole[-1] if whole else None


def checkpoint_to_go_on(args, run):
    """The trainer's checkpoint that --resume_from_checkpoint names, of a run like this one."""
    folder, last = latest_checkpoint(args.resume_from_checkpoint), last_folder(args.output_dir)
    if folder is None and os.path.realpath(args.resume_from_checkpoint) == os.path.realpath(last):
        raise UserError(
            f"--resume_from_checkpoint {args.resume_from_checkpoint}: nothing is saved there yet; leave it out to "
            "start from the beginning"
        )
    if folder is None:
        raise UserError(
            f"--resume_from_checkpoint {args.resume_from_checkpoint}: no checkpoint of a stopped training is there; "
            "name the folder <output_dir>_last, or leave out --do_train to use a trained model"
        )
    home = os.path.dirname(os.path.realpath(folder))
    if home != os.path.realpath(last):
        raise UserError(
            f"--resume_from_checkpoint {args.resume_from_checkpoint}: a run goes on in its own folder, which is {last} "
            f"for --output_dir {args.output_dir}; give that run's --output_dir, or rename the folder"
        )
    saved, problems = read_run(home), Problems()
    for name, now in run["arguments"].items():
        then = saved.get("arguments", {}).get(name)
        if name not in FREE_ON_RESUME and then != now:
            problems.add(f"--resume_from_checkpoint: --{name} was {then}, is {now}")
    for name, digest in run["data"].items():
        if saved.get("data", {}).get(name) != digest:
            problems.add(f"--resume_from_checkpoint: {name} is not the file that run was started with")
    problems.stop_if_any()
    return folder


def score(task, encoded, rows, labels, batch_size, decision):
    """Loss (mean binary cross-entropy), micro and macro F1, accuracy (exact label sets) of labelled rows."""
    logits, gold = task.logits(encoded, batch_size), rows.multi_hot(len(labels))
    loss = np.maximum(logits, 0) - logits * gold + np.log1p(np.exp(-np.abs(logits)))
    found = scores(gold, decision.decide(sigmoid(logits), labels.parents))
    return {
        "loss": float(loss.mean()),
        "micro_f1_score": found["micro_f1"],
        "macro_f1_score": found["macro_f1"],
        "accuracy": found["accuracy"],
    }


class Batches:
    """Row numbers of each batch of an epoch, the batches of one epoch other than those of another."""

    def __init__(self, lengths, batch_size, seed):
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0

    def __len__(self):
        return -(-len(self.lengths) // self.batch_size)

    def __iter__(self):
        return iter(shuffled_batches(self.lengths, self.batch_size, [self.seed, self.epoch]))


def divergence(logits, others):
    """R-Drop's term (Liang et al. 2021, https://arxiv.org/abs/2106.14448) for sigmoids: the symmetric Kullback-Leibler
    divergence of two passes, each label a distribution of its own. PaddleNLP's takes a softmax over the labels."""
    import paddle.nn.functional as F

    return ((F.sigmoid(logits) - F.sigmoid(others)) * (logits - others)).mean() / 2


def consistency(vectors, labels):
    """RGL's loss (Wang et al. 2022, https://aclanthology.org/2022.findings-naacl.81): rows of equal label sets should
    be alike at the mask, others not. PaddleNLP's (2.8) compares arrays as numbers, and all tokens in place of the mask.

    Args:
        vectors: float tensor [rows, width]. labels: 0/1 tensor [rows, labels].
    """
    import paddle.nn.functional as F

    vectors, rows = F.normalize(vectors, axis=1), len(labels)
    same = (labels.unsqueeze(0) == labels.unsqueeze(1)).all(axis=-1).astype(vectors.dtype)
    loss = F.binary_cross_entropy_with_logits(100 * vectors @ vectors.T, same, reduction="sum")
    return loss / max(1, rows * (rows - 1)) / 100


def tune(task, args, labels, rows, work, checkpoint):
    """Trains the task's model in place; at the end it is the best one, if `args.load_best_model_at_end`.

    Args:
        rows: {"train", "dev": `Rows`}. work: folder for the trainer's checkpoints. checkpoint: one of them to go on
            from, or None.
    Returns:
        {"steps", "seconds", "losses": the logged ones, "history": scores of dev, "best": score or None}.
    """
    import paddle
    from paddle.io import DataLoader
    from paddlenlp.prompt import PromptTrainer, PromptTuningArguments
    from paddlenlp.trainer import Trainer, TrainerCallback, TrainerState

    from text_cls.neural.training import load_weights

    tokens = {split: task.encode(part.texts, args.max_seq_length) for split, part in rows.items()}
    for split, encoded in tokens.items():
        mean, cut = encoded.lengths.mean(), 100 * encoded.truncated / len(encoded)
        logger.info("%s: %.1f tokens a row, %.1f%% of the rows cut at %d", split, mean, cut, args.max_seq_length)
    batches = Batches(tokens["train"].lengths, args.per_device_train_batch_size, args.seed)
    steps = args.max_steps if args.max_steps > 0 else len(batches) * args.num_train_epochs
    metric = f"eval_{args.metric_for_best_model}"
    state = TrainerState.load_from_json(os.path.join(checkpoint, "trainer_state.json")) if checkpoint else None
    begun = state.global_step if state else 0
    logger.info("Training: %d steps at most%s", steps, f", going on at step {begun}" if begun else "")

    def best_saved(state):
        """The folder of the best model, whose path was that of the run that saved it, perhaps elsewhere."""
        return os.path.join(work, os.path.basename(state.best_model_checkpoint))

    def best_score(state):
        """The best score, and how many came after it."""
        history = [entry for entry in state.log_history if metric in entry]
        best = int(np.argmax([entry["eval_choice"] for entry in history]))
        return history[best][metric], len(history) - 1 - best

    def patience_is_over(state):
        if not args.load_best_model_at_end:
            return False
        score, since = best_score(state)
        return score > 0 and since >= args.early_stopping_patience  # with a score of 0 nothing has been learnt yet

    def collate(chosen):
        return {
            **task.inputs(tokens["train"], np.array(chosen)),
            "labels": rows["train"].multi_hot(len(labels), chosen, np.float32),
        }

    class Tuner(PromptTrainer):
        """PaddleNLP's, on this suite's rows and scores."""

        def _map_dataset(self, dataset):
            return dataset

        def get_train_dataloader(self):
            return DataLoader(self.train_dataset, batch_sampler=batches, collate_fn=collate)

        def compute_loss(self, model, inputs, return_outputs=False):
            self.masks = inputs["masked_positions"]
            return super().compute_loss(model, inputs, return_outputs)

        def _compute_rgl_loss(self, embeddings, labels, equal_type="raw"):
            vectors = paddle.gather(embeddings.reshape([-1, embeddings.shape[-1]]), self.masks)
            return self.args.alpha_rgl * consistency(vectors, labels)

        def evaluate(self, *_, **__):
            scores = score(task, tokens["dev"], rows["dev"], labels, args.per_device_eval_batch_size, Decision())
            metrics = {f"eval_{name}": value for name, value in scores.items()}
            # Of few rows many models score the same, at first all of them 0: then the lower loss is better.
            # (Of 1 and a loss that is no number any more, min takes 1.)
            metrics["eval_choice"] = scores[args.metric_for_best_model] - 1e-6 * min(1, scores["loss"])
            self.log(metrics)
            self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
            return metrics

        def _save(self, output_dir=None, state_dict=None, merge_tensor_parallel=False):
            os.makedirs(output_dir, exist_ok=True)
            paddle.save(self.model.state_dict(), os.path.join(output_dir, "model_state.pdparams"))

        def _load_from_checkpoint(self, resume_from_checkpoint=None):
            Trainer._load_from_checkpoint(self, resume_from_checkpoint)  # the template is the same one

        def _load_rng_state(self, checkpoint):
            pass  # see the callback

    class Follower(TrainerCallback):
        """Draws by epoch and step, logs, and stops early."""

        def on_train_begin(self, _, state, control, **__):
            if state.best_model_checkpoint:
                state.best_model_checkpoint = best_saved(state)

        def on_epoch_begin(self, _, state, control, **__):
            batches.epoch = state.global_step // len(batches)

        def on_step_begin(self, _, state, control, **__):
            paddle.seed(args.seed * 1_000_003 + state.global_step)

        def on_step_end(self, _, state, control, **__):
            bar.update(1)

        def on_save(self, _, state, control, **__):
            """Keeps as many as --save_total_limit says, and the best: PaddleNLP (2.8) keeps all of a single process."""
            saved = checkpoints_in(work)
            kept = [path for step, path in saved.items() if step <= state.global_step][-args.save_total_limit :]
            kept += [best_saved(state)] if state.best_model_checkpoint else []
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

        def on_evaluate(self, _, state, control, metrics, **__):
            logger.info(
                "eval loss: %.5f, micro f1 score: %.5f, macro f1 score: %.5f",
                *(metrics[f"eval_{name}"] for name in ("loss", "micro_f1_score", "macro_f1_score")),
            )
            logger.info("Current best %s: %.5f", args.metric_for_best_model, best_score(state)[0])
            if patience_is_over(state):
                logger.info("Early stop!")
                control.should_training_stop = True

    adam = {"weight_decay": args.weight_decay}
    if args.freeze_plm:  # PaddleNLP (2.8) then gives prompt and label words the model's
        adam = {name: getattr(args, f"ppt_{name}") for name in (*adam, "adam_beta1", "adam_beta2", "adam_epsilon")}
    options = PromptTuningArguments(
        output_dir=work,
        device=args.device,
        seed=args.seed,
        do_train=True,
        do_eval=True,
        disable_tqdm=True,
        report_to=[],
        max_steps=steps,
        logging_steps=args.logging_steps,
        max_grad_norm=args.max_grad_norm or NO_CLIPPING,
        learning_rate=args.learning_rate,
        **adam,
        lr_scheduler_type=args.lr_scheduler_type,
        warmup_steps=args.warmup_steps,
        warmup_ratio=args.warmup_ratio,
        per_device_train_batch_size=args.per_device_train_batch_size,
        evaluation_strategy=args.evaluation_strategy,
        eval_steps=min(args.eval_steps or steps, steps),
        save_strategy=args.save_strategy,
        save_steps=min(args.save_steps or steps, steps),
        load_best_model_at_end=args.load_best_model_at_end,
        metric_for_best_model="choice",
        greater_is_better=True,
        max_seq_length=args.max_seq_length,
        freeze_plm=args.freeze_plm,
        freeze_dropout=args.freeze_dropout,
        use_rdrop=args.use_rdrop,
        alpha_rdrop=args.alpha_rdrop,
        use_rgl=args.use_rgl,
        alpha_rgl=args.alpha_rgl,
        ppt_learning_rate=args.ppt_learning_rate,
        ppt_weight_decay=args.ppt_weight_decay,
        ppt_adam_beta1=args.ppt_adam_beta1,
        ppt_adam_beta2=args.ppt_adam_beta2,
        ppt_adam_epsilon=args.ppt_adam_epsilon,
    )
    trainer = Tuner(
        model=task.model,
        tokenizer=task.tokenizer,
        criterion=paddle.nn.BCEWithLogitsLoss(),
        args=options,
        train_dataset=range(len(rows["train"])),
        data_collator=list,
        callbacks=[Follower()],
    )
    trainer.rdrop_criterion = divergence
    started = time.perf_counter()
    if state and (begun >= steps or patience_is_over(state)):  # PaddleNLP (2.8) would take one step more
        trainer.state, saved = state, best_saved(state) if args.load_best_model_at_end else checkpoint
        load_weights(task.model, os.path.join(saved, "model_state.pdparams"), "--resume_from_checkpoint")
    else:
        with progress_bar(steps, "step", initial=begun) as bar:
            trainer.train(checkpoint)
    history = trainer.state.log_history
    return {
        "steps": trainer.state.global_step,
        "seconds": time.perf_counter() - started,
        "losses": [entry["loss"] for entry in history if "learning_rate" in entry],
        "history": [entry for entry in history if metric in entry],
        "best": max((entry[metric] for entry in history if metric in entry), default=None),
    }
