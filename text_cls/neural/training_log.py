"""What a training run reports: log lines, and what its trackers record."""

import os
import time

from text_cls.cli import is_main_process, logger
from text_cls.language import tr
from text_cls.model_card import CARD
from text_cls.neural.evaluation import TUNED
from text_cls.neural.run_file import read_run
from text_cls.trackers import Trackers


class TrainingLog:
    """The log lines and curves of one run. Raises a UserError if a tracker cannot be opened."""

    def __init__(self, options):
        self.options = options
        self.metric_name = options.metric_for_best.replace("_", " ")
        run = os.path.basename(os.path.abspath(options.save_dir))
        self.trackers = Trackers(options.tracker, options.tracker_dir, run, options.visualdl_dir)
        self.last_step = 0
        self.restart_clock()

    def restart_clock(self):
        """Restarts the measurement of speed."""
        self.started, self.steps, self.texts = time.perf_counter(), 0, 0

    def start(self, steps, step):
        """The plan of the run. steps: `Steps`. step: number of steps that are done already."""
        options = self.options
        self.trackers.arguments(steps.checkpoint.run["arguments"])
        logger.info(
            "Training: %d steps, %d per epoch, %d rows per step%s",
            steps.total,
            steps.per_epoch,
            options.batch_size * steps.world * options.gradient_accumulation_steps,
            tr(", resuming at step {step}", step=step) if step else "",
        )
        if options.warmup and not options.warmup_steps:
            logger.warning("--warmup does nothing without --warmup_steps; 0.1 warms up over a tenth of the training")
        if 0 < steps.total <= options.warmup_steps:
            logger.warning("--warmup_steps %d: the rate never reaches --learning_rate", options.warmup_steps)

    def step(self, progress, loss, rate):
        """Loss and learning rate of a step, and the speed since the last of these lines."""
        seconds = time.perf_counter() - self.started
        logger.info(
            "global step %d, epoch: %d, batch: %d, loss: %.5f, speed: %.2f step/s, %.1f text/s",
            progress.step,
            progress.epoch + 1,
            progress.batch,
            loss,
            self.steps / seconds,
            self.texts / seconds,
        )
        self.trackers.scalar("train/loss", loss, progress.step)
        self.trackers.scalar("train/learning_rate", rate, progress.step)
        self.restart_clock()

    def evaluation(self, scores, step):
        """Scores of the dev rows after a step."""
        self.log_scores(scores)
        self.last_step = step
        for name, value in scores.items():
            self.trackers.scalar(f"dev/{name}", value, step)

    def averaged(self, scores):
        """Scores of the dev rows with the averaged weights."""
        logger.info("With the averaged weights, %s: %.5f", self.metric_name, scores[self.options.metric_for_best])

    def log_scores(self, scores):
        logger.info(
            "eval loss: %.5f, micro f1 score: %.5f, macro f1 score: %.5f",
            scores["loss"],
            scores["micro_f1"],
            scores["macro_f1"],
        )
        if f"{TUNED}micro_f1" in scores:
            logger.info(
                "with one threshold per label, fitted to other dev rows: micro f1 score: %.5f, macro f1 score: %.5f",
                scores[f"{TUNED}micro_f1"],
                scores[f"{TUNED}macro_f1"],
            )

    def best(self, score):
        logger.info("Current best %s score: %.5f", self.metric_name, score)

    def test(self, scores, rows):
        logger.info(
            "Test dataset size: %d, accuracy: %.5f, micro f1 score: %.5f, macro f1 score: %.5f",
            len(rows),
            scores["accuracy"],
            scores["micro_f1"],
            scores["macro_f1"],
        )

    def end(self, best_score):
        logger.info("Final best %s score: %.5f", self.metric_name, best_score)
        logger.info("Save best %s text classification model in %s", self.metric_name, self.options.save_dir)
        if self.options.metric_for_best.startswith(TUNED):
            logger.info(
                "Its decision.json has one threshold per label, fitted to all dev rows. On these, evaluate.py is too "
                "optimistic; on other rows, expect the score above"
            )
        self.track_result()

    def track_result(self):
        """Records the best scores and the model card, which the checkpoint has."""
        folder = self.options.save_dir
        if is_main_process() and self.trackers.opened:
            with open(os.path.join(folder, CARD), encoding="utf-8") as file:
                self.trackers.result(read_run(folder)["card"].get("scores", {}), file.read(), self.last_step)

    def close(self):
        """Ends the records of the trackers."""
        self.trackers.close()
