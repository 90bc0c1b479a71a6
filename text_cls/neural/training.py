"""The training loop behind `train.py`: steps, evaluation, best checkpoint, and going on exactly where a run stopped.

A run is a function of its arguments and data: batches are drawn from (seed, epoch), dropout from (seed, step, process).
To go on exactly, nothing is needed but the weights, the optimiser's moments, and the place.
"""

import contextlib
import os
import shutil
import time
from dataclasses import asdict

import numpy as np

from text_cls.batching import shuffled_batches, sorted_batches
from text_cls.cli import Problems, UserError, is_main_process, logger, progress_bar
from text_cls.decision import Decision
from text_cls.files import sha256, write_json
from text_cls.neural.checkpoint import (
    Checkpoint,
    last_folder,
    load_training_state,
    read_run,
    save_checkpoint,
    training_state,
)
from text_cls.neural.losses import make_loss, smoothed
from text_cls.neural.model import (
    encode,
    load_pretrained,
    log_model,
    logits_of,
    longest_input,
    predict_logits,
)
from text_cls.neural.run_state import Progress, StopSignal, start_run
from text_cls.probabilities import sigmoid
from text_cls.scores import scores

# On a CPU, Paddle's softmax (2.6 to 3.3) cuts its exponent at -64: padding keeps a probability of 1e-28, and gradients
# of 1e-35 and less flow back through it. Arithmetic on numbers that small (denormals) is up to 150 times slower. A loss
# scaled by a power of two keeps them out of that range and leaves every other bit of the gradients as it is.
CPU_LOSS_SCALE = 2.0**24

TUNED = "tuned_"  # scores with fitted thresholds are named so


class NullTracker:
    """Stands in for VisualDL's LogWriter where none is asked for."""

    def add_scalar(self, tag, value, step):
        pass


def train(args, labels, rows, environment):
    """Runs `train.py`'s arguments on checked data. Returns the exit status: 0, or 128 + the signal that stopped it."""
    names = (args.label_file, args.train_file, args.dev_file)
    run, progress = start_run(args, {name: os.path.join(args.dataset_dir, name) for name in names})
    if progress.finished:
        return 0
    if args.test_file:
        run["data"][args.test_file] = sha256(os.path.join(args.dataset_dir, args.test_file))
    last = last_folder(args.save_dir)
    model, tokenizer = load_pretrained(last if progress.step else args.model_name, len(labels))
    rows["train"] = rows["train"].sample(args.max_train_samples, args.seed)
    rows["dev"] = rows["dev"].sample(args.max_dev_samples, args.seed)
    tokens = make_ready(args, model, tokenizer, rows, environment, progress)
    trainer = Trainer(args, Checkpoint(model, tokenizer, labels, Decision(), run), rows, tokens, progress, last)
    trainer.rehearse()
    return trainer.run_all()


def make_ready(args, model, tokenizer, rows, environment, progress):
    """Weights of `--init_from_ckpt` into a model at its start, and {split: tokens} of the rows, with a log of both."""
    limit = longest_input(model.config)
    if limit and args.max_seq_length > limit:
        raise UserError(f"--max_seq_length {args.max_seq_length}: this model takes {limit} tokens at most")
    if args.init_from_ckpt and not progress.step:
        load_weights(model, args.init_from_ckpt)
    log_model(model, tokenizer, args.device, environment)
    tokens = {split: encode(part.texts, tokenizer, model, args.max_seq_length) for split, part in rows.items()}
    for split, encoded in tokens.items():
        mean, cut = encoded.lengths.mean(), 100 * encoded.truncated / len(encoded)
        logger.info("%s: %.1f tokens a row, %.1f%% of the rows cut at %d", split, mean, cut, args.max_seq_length)
    return tokens


def load_weights(model, path, flag="--init_from_ckpt"):
    """Puts the weights of a model_state.pdparams into the model. A UserError names what does not fit."""
    import paddle

    try:
        weights = paddle.load(path)
    except (OSError, RuntimeError, ValueError, EOFError) as error:
        raise UserError(f"{flag} {path}: not a file of weights ({error})") from error
    problems = Problems()
    for name, parameter in model.state_dict().items():
        if name not in weights:
            problems.add(f"{flag} {path}: {name} is not in it")
        elif list(weights[name].shape) != parameter.shape:
            problems.add(f"{flag} {path}: {name} is {list(weights[name].shape)}, wanted {parameter.shape}")
    problems.stop_if_any()
    model.set_state_dict(weights)


class Trainer:
    """One run over tokenised rows. `rows` and `tokens`: {"train", "dev" and perhaps "test": ...}."""

    def __init__(self, args, checkpoint, rows, tokens, progress, last):
        import paddle

        self.args, self.checkpoint, self.rows, self.tokens = args, checkpoint, rows, tokens
        self.progress, self.last = progress, last
        self.rank, self.world = paddle.distributed.get_rank(), paddle.distributed.get_world_size()
        self.model = checkpoint.model
        layer = self.prepare()
        self.wrapped = paddle.DataParallel(layer) if self.world > 1 else layer
        self.loss_scale = CPU_LOSS_SCALE if args.device == "cpu" else 1.0
        self.batches = -(-len(tokens["train"]) // (args.batch_size * self.world))
        self.steps_per_epoch = -(-self.batches // args.gradient_accumulation_steps)
        self.total_steps = self.steps_per_epoch * args.epochs
        self.scheduler, self.optimizer, self.scaler = self.make_optimizer()
        if progress.step:
            load_training_state(last, self.optimizer, self.scaler)
            self.scheduler.step(progress.step)
        self.tracker = NullTracker()
        if args.visualdl_dir and is_main_process():
            from visualdl import LogWriter

            self.tracker = LogWriter(args.visualdl_dir)
        self.saved_at = time.monotonic()
        self.folds_of = self.folds = None  # dev rows, and the parts of them by which thresholds are fitted

    def prepare(self):
        """Makes what a step needs beside the model. Returns the layer that a step runs."""
        rows = self.rows["train"]
        self.loss = make_loss(self.args.loss, rows.support(len(self.checkpoint.labels)), len(rows))
        return self.model

    def make_optimizer(self):
        """AdamW with a linear schedule that steps with every update, decay on weights alone, as in BERT's training."""
        import paddle
        from paddlenlp.transformers import LinearDecayWithWarmup

        args = self.args
        warmup = args.warmup_steps if args.warmup_steps < 1 else int(args.warmup_steps)
        scheduler = LinearDecayWithWarmup(args.learning_rate, self.total_steps, warmup)
        decayed = {p.name for n, p in self.model.named_parameters() if not any(w in n for w in ("bias", "norm"))}
        optimizer = paddle.optimizer.AdamW(
            learning_rate=scheduler,
            parameters=self.model.parameters(),
            weight_decay=args.weight_decay,
            apply_decay_param_fun=decayed.__contains__,
            grad_clip=paddle.nn.ClipGradByGlobalNorm(args.max_grad_norm) if args.max_grad_norm else None,
        )
        return scheduler, optimizer, paddle.amp.GradScaler(enable=args.amp == "fp16")

    # ------------------------------------------------------------------------------------------------------- a step

    def size(self, batch):
        """What a step's loss is the mean of, counted over a global batch: rows."""
        return len(batch)

    def inputs_of(self, batch):
        """This process's share of a global batch, as arrays; one is "weight", float32 as long as what `losses` gives.

        Where there are fewer rows than processes, some take a row that weighs nothing, since all must take part in the
        exchange of gradients.
        """
        mine = batch[self.rank :: self.world]
        weight = np.ones(max(1, len(mine)), dtype=np.float32)
        if not len(mine):
            mine, weight = batch[:1], np.zeros(1, dtype=np.float32)
        labels = self.rows["train"].multi_hot(len(self.checkpoint.labels), mine, np.float32)
        return {**self.tokens["train"].batch(mine), "labels": labels, "weight": weight}

    def loader(self, batches):
        from paddle.io import DataLoader

        numbers = list(range(len(batches)))
        return DataLoader(
            numbers,
            batch_sampler=[[number] for number in numbers],
            collate_fn=lambda chosen: self.inputs_of(batches[chosen[0]]),
            num_workers=self.args.num_workers,
        )

    def losses(self, inputs):
        """A loss a row: float32 tensor [rows]."""
        import paddle

        labels = inputs.pop("labels")
        dtype = {"fp16": "float16", "bf16": "bfloat16", None: "float16"}[self.args.amp]
        with paddle.amp.auto_cast(enable=self.args.amp is not None, dtype=dtype):
            logits = logits_of(self.wrapped, inputs)
        return self.loss(logits.astype("float32"), smoothed(labels, self.args.label_smoothing)).mean(axis=1)

    def backward(self, inputs, size_of_step, exchange):
        """Adds a batch's share to the gradients of a step of so many losses (`size`) over all processes.

        Returns:
            the batch's share of the step's mean loss, a tensor.
        """
        weight, waiting = inputs.pop("weight"), self.world > 1 and not exchange
        with self.wrapped.no_sync() if waiting else contextlib.nullcontext():
            # DataParallel averages over processes, hence the factor.
            loss = (self.losses(inputs) * weight).sum() * (self.world / size_of_step)
            self.scaler.scale(loss * self.loss_scale).backward()
        return loss.detach()

    def update(self):
        import paddle

        if self.loss_scale != 1:
            with paddle.no_grad():
                for parameter in self.model.parameters():
                    if parameter.grad is not None:
                        parameter.grad.scale_(1 / self.loss_scale)
        # The first step names the moments after a counter of the process; the guard has it count from 0, so that they
        # are found again by another process.
        with paddle.utils.unique_name.guard():
            self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.clear_grad()
        self.scheduler.step()
        self.progress.step += 1

    def seed_step(self):
        """Dropout of a step depends on seed, step and process alone, so that going on needs no generator's state."""
        import paddle

        paddle.seed((self.args.seed * 1_000_003 + self.progress.step) * self.world + self.rank)

    # --------------------------------------------------------------------------------------------------- evaluation

    def evaluate(self, split):
        """Loss and report on a split, each process computing its share. All processes get the same numbers."""
        import paddle

        tokens = self.tokens[split]
        mine = sorted_batches(tokens.lengths, self.args.batch_size)[self.rank :: self.world]
        logits = self.whole(predict_logits(self.model, tokens, self.args.batch_size, mine))
        gold, total = self.rows[split].multi_hot(logits.shape[1]), 0.0
        for start in range(0, len(logits), 4096):
            piece = slice(start, start + 4096)
            wanted = paddle.to_tensor(gold[piece].astype(np.float32))
            total += float(self.loss(paddle.to_tensor(logits[piece]), wanted).sum())
        parents = self.checkpoint.labels.parents
        probabilities, tuned = sigmoid(logits), split == "dev" and self.args.metric_for_best.startswith(TUNED)
        decision = Decision() if tuned else self.checkpoint.decision
        results = {"loss": total / gold.size, **scores(gold, decision.decide(probabilities, parents))}
        return {**results, **self.tune(probabilities, gold)} if tuned else results

    def tune(self, probabilities, gold):
        """F1 of dev rows with thresholds fitted to others of them. The checkpoint gets those fitted to all."""
        from text_cls import cross_fitting, thresholds

        rows, parents = self.rows["dev"], self.checkpoint.labels.parents
        if self.folds_of is not rows:
            self.folds_of, self.folds = rows, cross_fitting.draw_folds(gold, rows.texts, self.args.seed)
        fit = thresholds.fitter(Decision(), self.args.metric_for_best.split("_")[1], True, False, parents)
        predicted = cross_fitting.cross_fitted(probabilities, gold, self.folds, fit, parents)
        self.checkpoint.decision = fit(probabilities, gold)
        found = scores(gold, predicted)
        return {TUNED + name: found[name] for name in ("micro_f1", "macro_f1")}

    def whole(self, array):
        """An array of which each process has computed some rows and left the others 0, complete. The same array."""
        import paddle

        if self.world > 1:
            for start in range(0, len(array), 4096):  # in pieces, to spare memory
                piece = paddle.to_tensor(array[start : start + 4096])
                paddle.distributed.all_reduce(piece)
                array[start : start + 4096] = piece.numpy()
        return array

    def evaluate_and_keep(self):
        """Scores dev, and saves the checkpoint if it is the first or the best."""
        scores, progress = self.evaluate("dev"), self.progress
        progress.history.append({"epoch": progress.epoch, "step": progress.step, **scores})
        self.log_scores(scores)
        for name, value in scores.items():
            self.tracker.add_scalar(tag=f"dev/{name}", value=value, step=progress.step)
        score = scores[self.args.metric_for_best]
        progress.epochs_without_better += 1
        if progress.best_score is None or score > progress.best_score:
            progress.best_score, progress.epochs_without_better = score, 0
            self.save(self.args.save_dir)
        logger.info("Current best %s score: %.5f", self.metric_name, progress.best_score)

    def log_scores(self, scores):
        logger.info(
            "eval loss: %.5f, micro f1 score: %.5f, macro f1 score: %.5f",
            scores["loss"],
            scores["micro_f1"],
            scores["macro_f1"],
        )
        if f"{TUNED}micro_f1" in scores:
            logger.info(
                "with a threshold a label, fitted to other dev rows: micro f1 score: %.5f, macro f1 score: %.5f",
                scores[f"{TUNED}micro_f1"],
                scores[f"{TUNED}macro_f1"],
            )

    @property
    def metric_name(self):
        return self.args.metric_for_best.replace("_", " ")

    # ------------------------------------------------------------------------------------------------------- saving

    def save(self, path, training_state=None):
        if is_main_process():
            self.checkpoint.run["progress"] = asdict(self.progress)
            save_checkpoint(path, self.checkpoint, training_state)

    def save_last(self):
        self.save(self.last, training_state(self.optimizer, self.scaler))
        self.saved_at = time.monotonic()

    def rehearse(self):
        """Two steps and an evaluation on a handful of rows, then everything is put back.

        A fault in the model, in evaluation or in saving shows now, not after the first epoch. The rows are the longest
        ones, and on a GPU a whole batch of them: if memory does not suffice, that shows now as well.
        """
        import paddle

        args, tokens = self.args, self.tokens
        size = min(args.batch_size, 4) if args.device == "cpu" else args.batch_size
        weights = {name: value.numpy() for name, value in self.model.state_dict().items()}
        real = self.scheduler, self.optimizer, self.scaler, self.progress, self.tokens, self.rows
        decision = self.checkpoint.decision
        self.scheduler, self.optimizer, self.scaler = self.make_optimizer()
        self.progress = Progress()
        longest = np.argsort(-tokens["train"].lengths, kind="stable")[: size * self.world]
        self.model.train()
        for _ in range(2):
            inputs = {name: paddle.to_tensor(value) for name, value in self.inputs_of(longest).items()}
            self.backward(inputs, self.size(longest), exchange=True)
            self.update()
        if "dev" in self.rows:
            few = self.rows["dev"].sample(8, args.seed)
            self.tokens = {"dev": encode(few.texts, self.checkpoint.tokenizer, self.model, args.max_seq_length)}
            self.rows = {"dev": few}
            self.evaluate("dev")
        self.scheduler, self.optimizer, self.scaler, self.progress, self.tokens, self.rows = real
        self.checkpoint.decision = decision
        self.model.set_state_dict({name: paddle.to_tensor(value) for name, value in weights.items()})
        if not os.path.isdir(self.last):
            self.save_last()

    # ------------------------------------------------------------------------------------------------------ the run

    def run_all(self):
        args, progress = self.args, self.progress
        logger.info(
            "Training: %d steps, %d an epoch, %d rows a step%s",
            self.total_steps,
            self.steps_per_epoch,
            args.batch_size * self.world * args.gradient_accumulation_steps,
            f", going on at step {progress.step}" if progress.step else "",
        )
        if args.warmup and not args.warmup_steps:
            logger.warning("--warmup does nothing without --warmup_steps; 0.1 warms up over a tenth of the training")
        if self.total_steps <= args.warmup_steps:
            logger.warning("--warmup_steps %d: the rate never reaches --learning_rate", args.warmup_steps)
        if args.init_from_ckpt and not progress.history:
            self.evaluate_and_keep()  # so that a worse model never takes the place of the one given
        with StopSignal() as stop, progress_bar(self.total_steps, "step", initial=progress.step) as bar:
            while progress.epoch < args.epochs:
                if self.train_epoch(stop, bar):
                    self.save_last()
                    logger.info("Stopped at step %d, saved in %s; to go on: --resume", progress.step, self.last)
                    return 128 + stop.number
                progress.epoch, progress.batch = progress.epoch + 1, 0
                self.evaluate_and_keep()
                if args.early_stop and progress.epochs_without_better >= args.early_stop_nums:
                    logger.info("Early stop!")
                    break
                self.save_last()
        return self.finish()

    def train_epoch(self, stop, bar):
        """The rest of the epoch `progress` stands in. True if a signal ended it, after a whole step."""
        args, progress = self.args, self.progress
        group, total = args.gradient_accumulation_steps, args.batch_size * self.world
        plan = shuffled_batches(self.tokens["train"].lengths, total, [args.seed, progress.epoch], args.length_buckets)
        started, steps, texts, shares = time.perf_counter(), 0, 0, []
        self.model.train()
        for inputs in self.loader(plan[progress.batch :]):
            first = progress.batch // group * group
            size_of_step = sum(map(self.size, plan[first : first + group]))
            if progress.batch == first:
                self.seed_step()
            texts += len(plan[progress.batch])
            progress.batch += 1
            whole = progress.batch == min(first + group, len(plan))
            shares.append(self.backward(inputs, size_of_step, exchange=whole))
            if not whole:
                continue
            self.update()
            bar.update(1)
            steps += 1
            stopped = stop.number if self.world == 1 else 0
            if progress.step % args.logging_steps == 0:
                loss, stopped = self.agree(sum(map(float, shares)), stop.number)
                seconds = time.perf_counter() - started
                logger.info(
                    "global step %d, epoch: %d, batch: %d, loss: %.5f, speed: %.2f step/s, %.1f text/s",
                    progress.step,
                    progress.epoch + 1,
                    progress.batch,
                    loss,
                    steps / seconds,
                    texts / seconds,
                )
                self.tracker.add_scalar(tag="train/loss", value=loss, step=progress.step)
                self.tracker.add_scalar(tag="train/learning_rate", value=self.optimizer.get_lr(), step=progress.step)
                started, steps, texts = time.perf_counter(), 0, 0
            shares = []
            if stopped:
                stop.number = stopped
                return True
            self.after_step()
        return False

    def after_step(self):
        if self.args.save_minutes and time.monotonic() - self.saved_at > 60 * self.args.save_minutes:
            self.save_last()

    def agree(self, share, signal_number):
        """The step's mean loss over all processes, and the signal that any of them got, so that all stop together."""
        import paddle

        if self.world == 1:
            return share, signal_number
        loss, number = paddle.to_tensor([share / self.world]), paddle.to_tensor([signal_number])
        paddle.distributed.all_reduce(loss)
        paddle.distributed.all_reduce(number, op=paddle.distributed.ReduceOp.MAX)
        return float(loss), int(number)

    def finish(self):
        """Scores the test file with the best checkpoint, and marks the run as ended."""
        args, progress = self.args, self.progress
        if "test" in self.tokens:
            load_weights(self.model, os.path.join(args.save_dir, "model_state.pdparams"))
            self.checkpoint.decision = Decision.load(os.path.join(args.save_dir, "decision.json"))
            scores = self.evaluate("test")
            logger.info(
                "Test dataset size: %d, accuracy: %.5f, micro f1 score: %.5f, macro f1 score: %.5f",
                len(self.rows["test"]),
                scores["accuracy"],
                scores["micro_f1"],
                scores["macro_f1"],
            )
        progress.finished = True
        if is_main_process():
            run = read_run(args.save_dir)
            write_json(os.path.join(args.save_dir, "run.json"), {**run, "progress": asdict(progress)})
            shutil.rmtree(self.last, ignore_errors=True)
        self.log_end()
        return 0

    def log_end(self):
        args, progress = self.args, self.progress
        logger.info("Final best %s score: %.5f", self.metric_name, progress.best_score)
        logger.info("Save best %s text classification model in %s", self.metric_name, args.save_dir)
        if args.metric_for_best.startswith(TUNED):
            logger.info(
                "Its decision.json has a threshold a label, fitted to all dev rows. On these, evaluate.py flatters it; "
                "for other rows, expect the score above"
            )
