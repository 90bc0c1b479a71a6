"""The training loop behind `train.py`: epochs, evaluation, the best checkpoint, and exact resuming.

A run is a function of its arguments and data: batches are drawn from (seed, epoch), dropout from (seed, step, process).
To resume exactly, it needs nothing but the weights, the optimiser's moments, and its position.
"""

import contextlib
import functools
import os
import time
from dataclasses import asdict

import numpy as np

from text_cls.batching import shuffled_batches
from text_cls.card_facts import describe_data, describe_scores, in_words
from text_cls.cli import UserError, is_main_process, logger
from text_cls.decision import Decision
from text_cls.files import remove_folder, sha256
from text_cls.language import N_, tr
from text_cls.long_texts import WINDOWS, Windows
from text_cls.neural.averaging import Average, NoAverage
from text_cls.neural.checkpoint import Checkpoint, last_folder, save_checkpoint, update_checkpoint
from text_cls.neural.distillation import TaughtSteps, TaughtWindowSteps, with_unlabelled
from text_cls.neural.evaluation import Evaluation
from text_cls.neural.fewer_layers import load_with_layers
from text_cls.neural.head_start import reads_labels, start_head, texts_of_label
from text_cls.neural.losses import make_loss
from text_cls.neural.model import encode, log_model, longest_input
from text_cls.neural.plateau import Plateau
from text_cls.neural.pooling import start_pooling
from text_cls.neural.run_file import read_run
from text_cls.neural.run_state import Progress, StopSignal, last_is_damaged, load_start, saved_state, start_run
from text_cls.neural.steps import Optimization, Steps
from text_cls.neural.training_log import TrainingLog
from text_cls.neural.used_vocabulary import all_vectors, restore, use_vocabulary
from text_cls.neural.weights import load_weights
from text_cls.neural.windows import WindowSteps, encode_long, log_lengths
from text_cls.reference import make_reference, token_counts
from text_cls.terminal import progress_bar


def train(options, labels, rows, arguments, files, environment, progress, defaults=None, teaching=None):
    """Trains a classifier on checked data.

    Args:
        options: `TrainingOptions`.
        rows: {"train", "dev" and perhaps "test": labelled `Rows`}.
        arguments: all arguments of the script as given, as a dict.
        files: {"label", "train", "dev" and perhaps "test": (name, path)} of the data files.
        environment: lines for the log.
        progress: `Progress` to continue from.
        defaults: of the arguments, as a dict, for the model card.
        teaching: `Teaching`, what is learnt from besides the labels; None for nothing.
    Returns:
        the exit status: 0, or 128 + the number of the signal that stopped the run.
    """
    checked = {name: path for split, (name, path) in files.items() if split != "test"}
    soft = teaching and teaching.targets(rows)
    run = start_run(options, arguments, checked, progress, defaults=defaults)
    if "test" in files:  # a resumed run may have another one
        name, path = files["test"]
        run["data"][name] = sha256(path, again=True)
    model, tokenizer, state = load_start(
        options,
        run,
        progress,
        lambda name: load_with_layers(name, len(labels), start_pooling(options, name), options.layers),
    )
    tokens = make_ready(options, model, tokenizer, rows, environment, progress)
    if counts := use_vocabulary(model, options, all_tokens(options, model, tokenizer, labels, tokens)):
        logger.info("Vocabulary: the texts use %d of %d tokens; only their vectors are trained", *counts)
    run["card"] |= describe_data(labels, rows, tokens, {split: name for split, (name, _) in files.items()})
    run["card"] |= {"teacher": teaching.card(soft)} if soft else {}
    checkpoint = Checkpoint(model, tokenizer, labels, Decision(), run, long_texts=options.reading)
    trainer = make_trainer(options, checkpoint, rows, tokens, progress, soft)
    return trainer.run(state)


def make_ready(options, model, tokenizer, rows, environment, progress):
    """Loads the weights of `--init_from_ckpt` into a new model, tokenises the rows, and logs both.

    Returns:
        {split: tokens}.
    """
    limit = longest_input(model.config)
    if limit and options.max_seq_length > limit:
        raise UserError(
            tr(
                "--max_seq_length {max_seq_length}: this model takes at most {limit} tokens",
                max_seq_length=options.max_seq_length,
                limit=limit,
            )
        )
    if options.init_from_ckpt and not progress.step:
        load_weights(model, options.init_from_ckpt)
    log_model(model, tokenizer, options.device, environment)
    tokens = {}
    for split, part in rows.items():
        tokens[split] = encode_long(part.texts, tokenizer, model, options.max_seq_length, options.reading)
        log_lengths(split, tokens[split], options.max_seq_length, options.max_windows)
    return tokens


def all_tokens(options, model, tokenizer, labels, tokens):
    """[`Encoded`] of all texts that a training reads. tokens: those of the rows, {split: `Encoded` or `Windows`}."""
    found = [part.tokens if isinstance(part, Windows) else part for part in tokens.values()]
    if reads_labels(options.head_start):
        texts = [text for name in labels.names for text in texts_of_label(labels, name)]
        found.append(encode(texts, tokenizer, model, options.max_seq_length))
    return found


def make_trainer(options, checkpoint, rows, tokens, progress, soft=None):
    """The `Trainer` of a classifier. soft: `SoftTargets` of the training rows and of the texts without labels."""
    loss = make_loss(options.loss, rows["train"].support(len(checkpoint.labels)), len(rows["train"]))
    windows = options.long_texts == WINDOWS
    start = functools.partial(start_head, options, checkpoint, rows["train"], tokens["train"])
    if soft:
        tokens, kind = with_unlabelled(tokens), TaughtWindowSteps if windows else TaughtSteps
        steps = kind(options, checkpoint, rows["train"], tokens["train"], loss, soft)
    else:
        steps = (WindowSteps if windows else Steps)(options, checkpoint, rows["train"], tokens["train"], loss)
    evaluation = Evaluation(options, checkpoint, loss)
    return Trainer(options, checkpoint, rows, tokens, progress, steps, evaluation, TrainingLog(options), start)


class Trainer:
    """One run, from `progress` to its end.

    Args:
        options: `TrainingOptions`.
        checkpoint: `Checkpoint` with the model to train.
        rows, tokens: {"train", "dev" and perhaps "test": ...}, the rows and their tokens as `Encoded`.
        progress: `Progress`, changed as the run advances.
        steps, evaluation, log: `Steps`, `Evaluation` and `TrainingLog`, or what replaces them.
        start_head: function that sets the classifier before the first step; see `head_start.start_head`.
    """

    def __init__(self, options, checkpoint, rows, tokens, progress, steps, evaluation, log, start_head=lambda: False):
        self.options, self.checkpoint, self.rows, self.tokens = options, checkpoint, rows, tokens
        self.progress, self.steps, self.evaluation, self.log = progress, steps, evaluation, log
        self.start_head = start_head
        self.last = last_folder(options.save_dir)
        self.optimization = Optimization(checkpoint.model, options, steps.total)
        self.average = Average(checkpoint.model) if options.average else NoAverage()
        self.plateau = Plateau(options, rows.get("dev"), evaluation)
        self.saved_at = self.started = time.monotonic()
        self.seconds_before = checkpoint.run["card"].get("seconds", 0)  # of a run that is resumed

    def run(self, state=None):
        """Trains to the end. state: of `load_start`, for a run to be resumed. Returns the exit status."""
        with contextlib.closing(self.log):
            if state is not None:
                try:
                    self.average.load(state)
                    self.optimization.load(state, self.progress.step)
                except ValueError as error:
                    raise last_is_damaged(self.options.save_dir, self.checkpoint.run, error) from error
            self.rehearse()
            return self.run_all()

    def rehearse(self):
        """Makes two steps and an evaluation on a few rows, then restores weights and decision.

        A fault in the model, in evaluation or in saving shows now, not after the first epoch. The rows are the longest
        ones, and on a GPU a whole batch of them, so that a lack of memory shows now as well.
        """
        import paddle

        options, model, steps = self.options, self.checkpoint.model, self.steps
        weights = {name: value.numpy() for name, value in model.state_dict().items()}
        decision = self.checkpoint.decision
        optimization = Optimization(model, options, steps.total)
        count = min(options.batch_size, 4) if options.device == "cpu" else options.batch_size
        longest = np.argsort(-self.tokens["train"].lengths, kind="stable")[: count * steps.world]
        model.train()
        for _ in range(2 if options.epochs else 0):
            for inputs in steps.parts_of(longest):
                inputs = {name: paddle.to_tensor(value) for name, value in inputs.items()}
                steps.backward(inputs, steps.loss_count(longest), optimization)
            optimization.update()
        if "dev" in self.rows:
            few = self.rows["dev"].sample(8, options.seed)
            tokens = encode_long(few.texts, self.checkpoint.tokenizer, model, options.max_seq_length, options.reading)
            self.evaluation.evaluate(few, tokens)
        self.checkpoint.decision = decision
        model.set_state_dict({name: paddle.to_tensor(value) for name, value in weights.items()})
        # With --resume and no step done, what is there belongs to no run that goes on.
        if not os.path.isdir(self.last) or options.resume and self.progress == Progress():
            self.save_last()

    def run_all(self):
        """The rest of the run. Returns the exit status."""
        options, progress = self.options, self.progress
        self.log.start(self.steps, progress.step)
        if progress == Progress():
            self.prepare_start()
        with StopSignal() as stop, progress_bar(self.steps.total, N_("steps"), initial=progress.step) as bar:
            while progress.epoch < options.epochs:
                if self.train_epoch(stop, bar):
                    self.save_last()
                    logger.info("Stopped at step %d, saved in %s; to continue: --resume", progress.step, self.last)
                    return 128 + stop.number
                progress.epoch, progress.batch = progress.epoch + 1, 0
                self.evaluate_and_keep()
                if options.early_stop and progress.epochs_without_better >= options.early_stop_nums:
                    logger.info("Early stop!")
                    break
                self.save_last()
        return self.finish()

    def prepare_start(self):
        """Sets the classifier. Keeps what can predict something already, so that no worse model ever replaces it."""
        fitted = self.start_head()
        if fitted or self.options.init_from_ckpt or not self.options.epochs:
            self.evaluate_and_keep()
        if fitted:
            self.save_last()  # so that a resumed run need not fit again

    def train_epoch(self, stop, bar):
        """The rest of the current epoch. Returns True if a signal ended it, after a whole step."""
        options, progress, steps = self.options, self.progress, self.steps
        group, rows = options.gradient_accumulation_steps, options.batch_size * steps.world
        seed = [options.seed, progress.epoch]
        plan = shuffled_batches(self.tokens["train"].lengths, rows, seed, options.length_buckets)
        shares = []
        self.optimization.freeze_encoder(progress.epoch < options.freeze_epochs)
        self.log.restart_clock()
        self.checkpoint.model.train()
        steps.epoch = progress.epoch
        for parts in steps.loader(plan[progress.batch :]):
            first = progress.batch // group * group  # of the batches of this step
            loss_count = sum(map(steps.loss_count, plan[first : first + group]))
            if progress.batch == first:
                steps.seed(progress.step)
            self.log.texts += len(plan[progress.batch])
            progress.batch += 1
            complete = progress.batch == min(first + group, len(plan))
            shares.append(steps.backward_parts(parts, loss_count, self.optimization, exchange=complete))
            if complete:
                self.optimization.update()
                progress.step += 1
                self.log.steps += 1
                self.average.update(progress.step)
                bar.update(1)
                if self.stopped(shares, stop):
                    return True
                shares = []
                self.after_step()
        return False

    def stopped(self, shares, stop):
        """Logs a step if its line is due. Returns whether a signal has stopped the run.

        Several processes must stop together. They agree on it when a line is due, since that costs an exchange.
        """
        stopped = stop.number if self.steps.world == 1 else 0
        if self.progress.step % self.options.logging_steps == 0:
            loss, stopped = agree(sum(map(float, shares)), stop.number)
            self.log.step(self.progress, loss, self.optimization.rate)
        if stopped:
            stop.number = stopped
        return bool(stopped)

    def after_step(self):
        minutes = self.options.save_minutes
        if minutes and time.monotonic() - self.saved_at > 60 * minutes:
            self.save_last()

    def evaluate_and_keep(self):
        """Scores dev, and saves the checkpoint if it is the first or the best. So does it with the averaged weights."""
        progress = self.progress
        scores = self.evaluation.evaluate(self.rows["dev"], self.tokens["dev"])
        progress.history.append({"epoch": progress.epoch, "step": progress.step, **scores})
        self.log.evaluation(scores, progress.step)
        self.plateau.warn(progress.history)
        self.save_if_best(scores)
        if self.average.exists:
            with self.average.in_model():
                scores = self.evaluation.evaluate(self.rows["dev"], self.tokens["dev"])
                self.log.averaged(scores)
                if scores[self.options.metric_for_best] > progress.history[-1][self.options.metric_for_best]:
                    progress.history[-1] |= {**scores, "averaged": True}
                    self.save_if_best(scores)
        self.log.best(progress.best_score)

    def save_if_best(self, scores):
        """Saves the checkpoint if its scores, those of the last entry of the history, are the first or the best."""
        progress, metric = self.progress, self.options.metric_for_best
        # The scores of the start are no epoch's: training may pass them late.
        of_epochs = [entry[metric] for entry in progress.history if entry["epoch"]]
        progress.epochs_without_better = len(of_epochs) - 1 - of_epochs.index(max(of_epochs)) if of_epochs else 0
        if progress.best_score is None or scores[metric] > progress.best_score:
            progress.best_score = scores[metric]
            self.describe("dev")
            self.refer_to_dev()
            self.save(self.options.save_dir)

    def describe(self, split):
        """Records the scores of the last evaluation for the model card, with their intervals."""
        if is_main_process():
            card, found = self.checkpoint.run["card"], {}
            gold, sets = self.evaluation.sets
            for prefix, predicted in sets.items():
                scores = describe_scores(gold, predicted, self.options.seed)
                found |= {prefix + name: values for name, values in scores.items()}
            card["scores"] = {**card.get("scores", {}), split: found}
            card["decided"] = in_words(self.checkpoint.decision)

    def refer_to_dev(self):
        """Makes the last evaluation, of the dev rows, what later texts are compared with."""
        checkpoint, (gold, _) = self.checkpoint, self.evaluation.sets
        probabilities = self.evaluation.probabilities
        if is_main_process() and probabilities is not None:  # an encoder alone has none
            found = token_counts(self.tokens["dev"], getattr(checkpoint.tokenizer, "unk_token_id", None))
            model = self.rows["dev"].path, checkpoint.labels, checkpoint.decision
            checkpoint.reference = make_reference(*model, probabilities, gold, found)

    def seconds(self):
        """Seconds of training so far, of a resumed run with those before."""
        return round(self.seconds_before + time.monotonic() - self.started, 1)

    def save(self, path, training_state=None):
        if is_main_process():
            self.checkpoint.run["progress"] = asdict(self.progress)
            self.checkpoint.run["card"]["seconds"] = self.seconds()
            # The state of a run has the vectors as loaded, or rounding would differ from that of a run never stopped.
            kept = self.optimization.kept if training_state is None else 1.0
            with all_vectors(self.checkpoint.model, kept):
                save_checkpoint(path, self.checkpoint, training_state)

    def save_last(self):
        self.save(self.last, saved_state(self.optimization, self.progress) | self.average.state())
        self.saved_at = time.monotonic()

    def finish(self):
        """Scores the test file with the best checkpoint, and marks the run as finished. Returns the exit status."""
        save_dir, progress, checkpoint = self.options.save_dir, self.progress, self.checkpoint
        if self.steps.world > 1:
            import paddle

            paddle.distributed.barrier()  # all processes read what the first one has written
        decision = Decision.load(os.path.join(save_dir, "decision.json"), checkpoint.labels.names)
        restore(checkpoint.model)
        if "test" in self.tokens:
            load_weights(checkpoint.model, save_dir)
            checkpoint.decision = decision
            scores = self.evaluation.evaluate(self.rows["test"], self.tokens["test"], fit=False)
            self.describe("test")
            self.log.test(scores, self.rows["test"])
        progress.finished = True
        if is_main_process():
            run = read_run(save_dir)
            now, best = checkpoint.run["card"], run.get("card", {})
            tested = {"test": now["scores"]["test"]} if "test" in self.tokens else {}
            scores = {**best.get("scores", {}), **tested}
            card = {**now, **best, "data": now["data"], "seconds": self.seconds(), "scores": scores}
            run |= {"progress": asdict(progress), "card": card}
            update_checkpoint(save_dir, run, checkpoint.labels, decision)
            remove_folder(self.last)
        self.log.end(progress.best_score)
        return 0


def agree(share, signal_number):
    """The step's mean loss over all processes, and the signal that any of them got, so that all stop together."""
    import paddle

    world = paddle.distributed.get_world_size()
    if world == 1:
        return share, signal_number
    loss, number = paddle.to_tensor([share / world]), paddle.to_tensor([signal_number])
    paddle.distributed.all_reduce(loss)
    paddle.distributed.all_reduce(number, op=paddle.distributed.ReduceOp.MAX)
    return float(loss), int(number)
