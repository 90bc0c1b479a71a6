"""What a training run reports: log lines, and curves for VisualDL."""

import time

from text_cls.cli import is_main_process, logger
from text_cls.neural.evaluation import TUNED


class NullTracker:
    """Replaces VisualDL's LogWriter if there is no --visualdl_dir."""

    def add_scalar(self, tag, value, step):
        pass


class TrainingLog:
    """The log lines and curves of one run."""

    def __init__(self, options):
        self.options = options
        self.metric_name = options.metric_for_best.replace("_", " ")
        self.tracker = NullTracker()
        if options.visualdl_dir and is_main_process():
            from visualdl import LogWriter

            self.tracker = LogWriter(options.visualdl_dir)
        self.restart_clock()

    def restart_clock(self):
        """Restarts the measurement of speed."""
        self.started, self.steps, self.texts = time.perf_counter(), 0, 0

    def start(self, steps, step):
        """The plan of the run. steps: `Steps`. step: number of steps that are done already."""
        options = self.options
        logger.info(
            "Training: %d steps, %d per epoch, %d rows per step%s",
            steps.total,
            steps.per_epoch,
            options.batch_size * steps.world * options.gradient_accumulation_steps,
            f", resuming at step {step}" if step else "",
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
        self.tracker.add_scalar(tag="train/loss", value=loss, step=progress.step)
        self.tracker.add_scalar(tag="train/learning_rate", value=rate, step=progress.step)
        self.restart_clock()

    def evaluation(self, scores, step):
        """Scores of the dev rows after a step."""
        self.log_scores(scores)
        for name, value in scores.items():
            self.tracker.add_scalar(tag=f"dev/{name}", value=value, step=step)

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
