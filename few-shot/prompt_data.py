"""The inputs of train.py, all checked at once: arguments, labels with their words, rows, a trained model."""

import os
from dataclasses import dataclass

from prompt_checkpoints import DEFAULTS
from prompting import Prompt, parse_prompt
from text_cls.cli import Problems, UserError
from text_cls.label_names import tidy_name
from text_cls.label_tree import split_path
from text_cls.language import tr
from text_cls.neural.checkpoint import Checkpoint, checkpoint_folder_problem, last_folder, load_checkpoint
from text_cls.neural.export import bundle_folder_problem
from text_cls.neural.model import model_name_problem, paddle_device_problem
from text_cls.neural.run_file import REMEDY, RUN_FILE
from text_cls.prediction import count_texts
from text_cls.rows import read_labels, read_lines, read_rows
from text_cls.trackers import tracker_problems

EXPORT = "export"  # folder of the bundle in output_dir


def argument_problems(args):
    """Yields a message for each problem with the arguments alone, and None for a check that finds none."""
    if not (args.do_train or args.do_eval or args.do_predict or args.do_export):
        yield tr("nothing to do: use --do_train, --do_eval, --do_predict or --do_export")
    yield paddle_device_problem(args.device)
    if int(os.environ.get("PADDLE_TRAINERS_NUM", 1)) > 1:
        yield tr("prompt tuning runs in a single process; start it without paddle.distributed.launch")
    if args.do_train:
        yield model_name_problem(args.model_name_or_path, "--model_name_or_path")
        yield checkpoint_folder_problem(args.output_dir, "prompt", "--output_dir")
        last = last_folder(args.output_dir)
        found = sorted(os.listdir(last)) if os.path.isdir(last) else []
        if strange := [name for name in found if name != "run.json" and not name.startswith("checkpoint-")]:
            yield tr(
                "{last} holds {strange}, which would be lost; move it elsewhere",
                last=last,
                strange=", ".join(strange[:5]),
            )
    if args.do_train or args.do_export:
        yield bundle_folder_problem(os.path.join(args.output_dir, EXPORT), "--output_dir")
    yield from schedule_problems(args)
    yield from tracker_problems(args.tracker)
    if not args.learning_rate:
        yield tr("--learning_rate 0: to train only soft tokens and label words, use --freeze_plm")


def schedule_problems(args):
    """The same for the flags that say when to train, score and save."""
    strategies = {args.evaluation_strategy, args.save_strategy}
    otherwise = len(strategies) > 1 or "steps" in strategies and args.save_steps != args.eval_steps
    if args.load_best_model_at_end and otherwise:
        yield tr("--load_best_model_at_end: every scored model must be saved; save as often as you evaluate")
    if args.load_best_model_at_end and args.evaluation_strategy == "no":
        yield tr("--load_best_model_at_end: --evaluation_strategy no gives no scores to choose the best model by")
    if args.evaluation_strategy == "steps" and not args.eval_steps:
        yield tr("--evaluation_strategy steps: set the number of steps, such as --eval_steps 100")
    elif args.save_strategy == "steps" and not args.save_steps:
        yield tr("--save_strategy steps: set the number of steps, such as --save_steps 100")
    for what, flag in (("evaluation", "eval"), ("save", "save")):
        strategy = getattr(args, f"{what}_strategy")
        if strategy != "steps" and getattr(args, f"{flag}_steps"):
            yield tr(
                "--{flag}_steps has no effect with --{what}_strategy {strategy}; leave one of them out",
                flag=flag,
                what=what,
                strategy=strategy,
            )
    if args.max_steps == 0 or args.max_steps < -1:
        yield tr("--max_steps: must be 1 or more, or -1 to count epochs instead")


@dataclass
class PromptData:
    """What train.py works on.

    prompt: `Prompt`. rows: {"train", "dev", "test": `Rows`}, those needed. trained: `Checkpoint` of a trained model, or
    None with --do_train. count: texts to predict.
    """

    prompt: Prompt
    rows: dict
    trained: Checkpoint | None
    count: int


def read_all(args):
    """Reads and checks everything, and reports all problems at once. Returns `PromptData`.

    Fills in `args.max_seq_length`, `args.truncate_mode` and, without --do_train, `args.resume_from_checkpoint`.
    """
    problems, trained, parts = Problems(), None, None
    for message in filter(None, argument_problems(args)):
        problems.add(message)
    with problems.collect():
        trained = None if args.do_train else open_trained(args, problems)
        parts = trained.run["prompt"] if trained else parse_prompt(args.prompt)
    defaults = trained.run["arguments"] if trained else DEFAULTS
    args.max_seq_length = args.max_seq_length or defaults["max_seq_length"]
    args.truncate_mode = args.truncate_mode or defaults["truncate_mode"]
    splits = ["train", "dev"] if args.do_train else ["dev"] if args.do_eval else []
    if problem := missing_files(args, splits):
        problems.add(problem)
    problems.stop_if_any()
    if trained:
        labels, words = trained.labels, trained.run["label_words"]
    else:
        labels, words = read_label_words(os.path.join(args.data_dir, "label.txt"), problems)
    problems.stop_if_any()  # with wrong labels, every row would be reported
    if args.do_predict and os.path.exists(os.path.join(args.data_dir, "test.txt")):
        splits.append("test")
    rows = {split: read_labelled(os.path.join(args.data_dir, f"{split}.txt"), labels, problems) for split in splits}
    count = count_texts(texts_of(args), problems, labels, args.skip_blank) if args.do_predict else 0
    problems.stop_if_any()
    return PromptData(Prompt(parts, labels, words), rows, trained, count)


def missing_files(args, splits):
    """What data_dir lacks, as a message, or None. splits: those whose files are needed."""
    needed = [f"{split}.txt" for split in splits] + (["label.txt"] if args.do_train else [])
    missing = [name for name in needed if not os.path.exists(os.path.join(args.data_dir, name))]
    if args.do_predict and not os.path.exists(texts_of(args)):
        missing.append(tr("data.txt and no test.txt"))
    if missing and not os.path.isdir(args.data_dir):
        return tr(
            "--data_dir {data_dir} is not a folder; name the one with train.txt, dev.txt and label.txt",
            data_dir=args.data_dir,
        )
    return (
        tr("--data_dir {data_dir}: there is no {missing}", data_dir=args.data_dir, missing=", no ".join(missing))
        if missing
        else None
    )


def open_trained(args, problems):
    """The `Checkpoint` of --resume_from_checkpoint, by default output_dir; its model is not loaded yet."""
    flag = "--resume_from_checkpoint" if args.resume_from_checkpoint else "--output_dir"
    args.resume_from_checkpoint = args.resume_from_checkpoint or args.output_dir
    trained = load_checkpoint(args.resume_from_checkpoint, None, problems, flag, "prompt")
    for name in ("prompt", "label_words"):
        if name not in trained.run:
            raise UserError(
                tr(
                    "{path}: {name} is missing; {remedy}",
                    path=os.path.join(trained.path, RUN_FILE),
                    name=name,
                    remedy=tr(REMEDY),
                )
            )
    if args.prompt is not None and parse_prompt(args.prompt) != trained.run["prompt"]:
        problems.add(tr("--prompt differs from the trained model's; leave it out"))
    label_file = os.path.join(args.data_dir, "label.txt")
    if os.path.exists(label_file):
        given, _ = read_label_words(label_file, problems, of_model=True)
        if not given.same_as(trained.labels):
            problems.add(
                tr("{label_file} does not list the trained model's labels in the same order", label_file=label_file)
            )
    return trained


def texts_of(args):
    """The file whose labels --do_predict predicts."""
    data = os.path.join(args.data_dir, "data.txt")
    return data if os.path.exists(data) else os.path.join(args.data_dir, "test.txt")


def read_label_words(path, problems, of_model=False):
    """Reads `label.txt` with its words. A line is `label` or `label==word`; several words take several lines.

    A label without a word is its own word; in a hierarchy, its last piece is. of_model: as in `read_labels`.
    Returns:
        (`Labels`, [[word, ...] of each label]).
    """
    words, lines = {}, []
    for number, line in read_lines(path):
        name, equals, word = (piece.strip() for piece in line.partition("=="))
        if equals and not (name and word and "==" not in word):
            problems.add(
                tr(
                    "{path}:{number}: {line!r}: expected label or label==word",
                    path=path,
                    number=number,
                    line=line.strip(),
                )
            )
        key = tidy_name(name)
        if equals and word in words.get(key, ()):
            problems.add(
                tr(
                    "{path}:{number}: label {name!r} already has the word {word!r}; delete the line",
                    path=path,
                    number=number,
                    name=name,
                    word=word,
                )
            )
        if not equals or key and key not in words:
            lines.append((number, name))
        words.setdefault(key, [])
        words[key] += [word] if equals else []
    labels = read_labels(path, problems, lines, of_model)
    return labels, [words[tidy_name(name)] or [split_path(name)[-1]] for name in labels.names]


def read_labelled(path, labels, problems):
    """`read_rows` for a file in which every row must have a tab, even one without labels: `text<TAB>`."""
    for number, line in read_lines(path):
        if line.strip() and "\t" not in line:
            problems.add(
                tr(
                    "{path}:{number}: a row without labels; write text<TAB>label,label, or text<TAB> if no label "
                    "applies. Texts to predict belong in data.txt",
                    path=path,
                    number=number,
                )
            )
    return read_rows(path, labels, problems, again=True)
