"""Prompt tuning: a masked-language model learns from a few labelled rows to fill in the label's word.

    python few-shot/train.py --device gpu --data_dir data --output_dir prompted --prompt "这句话描述的事件是" \\
        --max_seq_length 128 --ppt_learning_rate 3e-4 --do_train --do_eval --do_predict --do_export
    python few-shot/train.py --device gpu --data_dir data --output_dir prompted --do_export    # the trained model
    python few-shot/infer.py --device cpu --model_path_prefix prompted/export/model --data_dir data

The data files are those of train.py, but a line of label.txt may be label==word. Every server takes the bundle.
"""

import argparse
import os
import sys
from contextlib import closing
from pathlib import Path

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from prompt_checkpoints import files_of, is_finished, load_trained
from prompt_data import EXPORT, read_all, texts_of
from prompt_flags import add_flags, settle
from prompting import make_task, unknown_words
from text_cls.argument_parser import ArgumentParser
from text_cls.cli import Problems, UserError, command, logger
from text_cls.language import tr
from text_cls.locks import write_lock
from text_cls.neural.compat import prepare_environment
from text_cls.trackers import Trackers
from utils import log_data

PREDICTIONS = "predictions.txt"


def parse_args(argv=None):
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add_flags(parser)
    args = parser.parse_args(argv)
    settle(args)
    return args


def load_task(args, prompt, trained, device):
    """The `PromptTask` on a device: of a trained `Checkpoint`, or with a pretrained model if that is None."""
    import paddle

    from text_cls.neural.checkpoint import load_rest
    from text_cls.neural.model import load_masked_lm, set_device

    def with_prompt(plm, tokenizer):
        lengths = args.max_seq_length, args.truncate_mode
        return make_task(plm, tokenizer, prompt, *lengths, args.freeze_plm, args.freeze_dropout)

    set_device(device)
    paddle.seed(args.seed)
    if trained:
        return load_rest(trained, lambda: load_trained(trained.path, with_prompt))
    plm, tokenizer = load_masked_lm(args.model_name_or_path, "--model_name_or_path")
    kind = plm.config.model_type
    if kind != "ernie":
        raise UserError(
            tr(
                "--model_name_or_path {model_name_or_path}: of type {kind}; only ERNIE is supported",
                model_name_or_path=args.model_name_or_path,
                kind=kind,
            )
        )
    return with_prompt(plm, tokenizer)


def save(args, task, run):
    """Writes the trained model to output_dir, whole or not at all."""
    import paddle

    from prompt_export import write_prompt_files
    from text_cls.decision import Decision
    from text_cls.files import atomic_folder, write_json
    from text_cls.neural.checkpoint import write_card
    from text_cls.neural.run_file import RUN_FILE, file_sums

    with atomic_folder(args.output_dir) as folder:
        config, labels = task.model.plm.config, task.prompt.labels
        config.id2label, config.label2id = dict(enumerate(labels.names)), dict(labels.index)
        config.save_pretrained(folder)
        paddle.save(task.model.state_dict(), os.path.join(folder, "model_state.pdparams"))
        task.tokenizer.save_pretrained(folder)
        labels.write(os.path.join(folder, "label.txt"))
        Decision().save(os.path.join(folder, "decision.json"))
        write_prompt_files(folder, task.prompt)
        write_card(folder, run, labels, Decision())
        files = {**file_sums(folder), **dict.fromkeys((RUN_FILE, "decision.json", PREDICTIONS, EXPORT))}
        run = {**run, "prompt": task.prompt.parts, "label_words": task.prompt.words, "files": files}
        write_json(os.path.join(folder, RUN_FILE), run)


def train(args, task, rows):
    """Trains, and writes output_dir. Until then, the trainer's checkpoints are in <output_dir>_last."""
    from prompt_checkpoints import checkpoint_to_resume
    from text_cls.files import remove_folder, write_json
    from text_cls.model_card import CARD
    from text_cls.neural.checkpoint import last_folder
    from text_cls.neural.run_file import RUN_FILE, describe_run

    run = {"kind": "prompt", **describe_run(vars(args), files_of(args))}
    checkpoint, last, sums = None, last_folder(args.output_dir), {}
    if args.resume_from_checkpoint:
        checkpoint, sums = checkpoint_to_resume(args, run)
    else:
        if os.path.exists(os.path.join(last, RUN_FILE)):
            logger.warning("%s holds an interrupted run; this one replaces it", last)
        remove_folder(last)
    write_json(os.path.join(last, RUN_FILE), {**run, "checkpoints": sums})
    if unknown := unknown_words(task.tokenizer, task.prompt):
        shown = ", ".join(unknown[:5]) + (" ..." if unknown[5:] else "")
        logger.warning(
            "The model knows no token of %d label words: %s. Choose others in label.txt", len(unknown), shown
        )
    name = os.path.basename(os.path.abspath(args.output_dir))
    with closing(Trackers(args.tracker, args.tracker_dir, name)) as trackers:
        trackers.arguments(vars(args))
        training = fit(args, task, rows, last, checkpoint, trackers)
        result = training.result()
        card = training.describe(vars(parse_args(["--output_dir", args.output_dir])))
        save(args, task, {**run, "training": result, "card": card})
        trackers.result(card["scores"], Path(args.output_dir, CARD).read_text(encoding="utf-8"), result["steps"])
    remove_folder(last)
    if result["best"] is not None:
        logger.info("Final best %s: %.5f", args.metric_for_best_model, result["best"])
    kept = f"best {args.metric_for_best_model}" if args.load_best_model_at_end else "last"
    logger.info("Save %s prompt model in %s", kept, args.output_dir)


def fit(args, task, rows, folder, checkpoint, trackers):
    """Trains from a checkpoint in the folder, or from the start if that is None. Returns the `PromptRun`."""
    from prompt_checkpoints import latest_checkpoint
    from prompt_training import PromptRun

    try:
        training = PromptRun(task, args, {split: rows[split] for split in ("train", "dev")}, folder, trackers)
        training.train(checkpoint)
    except KeyboardInterrupt:
        if latest_checkpoint(folder):
            logger.info("Stopped; to resume from the last checkpoint: --resume_from_checkpoint %s", folder)
        else:
            logger.info("Stopped before the first checkpoint")
        raise
    except MemoryError as error:
        raise UserError(
            tr(
                "out of memory with --per_device_train_batch_size {per_device_train_batch_size} and --max_seq_length "
                "{max_seq_length}; halve one of them",
                per_device_train_batch_size=args.per_device_train_batch_size,
                max_seq_length=args.max_seq_length,
            )
        ) from error
    return training


def log_scores(args, task, rows, decision):
    """Logs the scores on dev with --do_eval, and on test if its rows were read."""
    from prompt_training import score

    for split in (["dev"] if args.do_eval else []) + (["test"] if "test" in rows else []):
        part = rows[split]
        encoded = task.encode(part.texts, args.max_seq_length)
        scores = score(task, encoded, part, task.prompt.labels, args.per_device_eval_batch_size, decision)
        logger.info(
            "%s dataset size: %d, accuracy: %.5f, micro f1 score: %.5f, macro f1 score: %.5f",
            split.capitalize(),
            len(part),
            scores["accuracy"],
            scores["micro_f1_score"],
            scores["macro_f1_score"],
        )


def predict(args, task, count, decision):
    """Predicts the labels of data.txt, or of test.txt if there is no data.txt. count: number of texts in it."""
    from text_cls.prediction import Job, log_flat, log_hierarchy, named_labels, predict_file
    from text_cls.probabilities import sigmoid
    from text_cls.table_output import Output
    from text_cls.table_texts import TextFile

    labels = task.prompt.labels

    def labels_of(texts):
        logits = task.logits(task.encode(texts, args.max_seq_length), args.per_device_eval_batch_size)
        return named_labels(sigmoid(logits), labels, decision)

    log_row = log_hierarchy if labels.hierarchical else log_flat
    output = Output(os.path.join(args.output_dir, PREDICTIONS))
    predict_file(Job(TextFile(texts_of(args), count, args.skip_blank), output), labels_of, log_row)


def run(args, environment):
    """Does what the flags ask for. environment: lines for the log."""
    if is_finished(args):
        logger.info("This run has finished already; its model is in %s", args.output_dir)
        if not (args.do_eval or args.do_predict or args.do_export):
            return
        args.do_train, args.resume_from_checkpoint = False, args.output_dir
    data = read_all(args)
    from text_cls.decision import Decision
    from text_cls.neural.checkpoint import load_checkpoint
    from text_cls.neural.compat import import_paddle
    from text_cls.neural.model import log_model

    log_data(data.prompt.labels, data.rows)
    # A resumed run finds the optimiser's state by the parameters' names, which contain a counter.
    with import_paddle().utils.unique_name.guard():
        task = load_task(args, data.prompt, data.trained, args.device)
        log_model(task.model.plm, task.tokenizer, args.device, environment)
        logger.info("A row: %s", task.describe())
        if args.do_train:
            train(args, task, data.rows)
    decision = data.trained.decision if data.trained else Decision()
    log_scores(args, task, data.rows, decision)
    if args.do_predict:
        predict(args, task, data.count, decision)
    if args.do_export:
        from prompt_export import export

        trained = data.trained or load_checkpoint(args.output_dir, None, Problems(), "--output_dir", "prompt")
        path = os.path.join(args.output_dir, EXPORT)
        # On a CPU, because a GPU's rounding is too coarse to compare logits.
        task = load_task(args, data.prompt, trained, "cpu")
        difference = export(path, task, decision, args.max_seq_length, args.export_type, trained.run)
        logger.info("The bundle is in %s; its logits match the trained model's within %.1e", path, difference)


def written(args):
    """The folders that the steps of the run write."""
    from text_cls.neural.checkpoint import last_folder

    if args.do_train:
        return [args.output_dir, last_folder(args.output_dir)]
    if args.do_export:
        return [args.output_dir, os.path.join(args.output_dir, EXPORT)]
    return [args.output_dir] if args.do_predict else []


@command
def main(argv=None):
    args = parse_args(argv)
    environment = prepare_environment()
    with write_lock(*written(args)):
        run(args, environment)


if __name__ == "__main__":
    sys.exit(main())
