"""What there is to work on, all of it checked at once: arguments, labels with their words, rows, a trained model."""

import os
from dataclasses import dataclass

from prompting import parse_prompt
from text_cls.cli import Problems
from text_cls.label_tree import SEPARATOR
from text_cls.neural.checkpoint import checkpoint_folder_problem, last_folder, load_checkpoint
from text_cls.neural.export import bundle_folder_problem
from text_cls.neural.model import model_name_problem, paddle_device_problem
from text_cls.prediction import count_texts
from text_cls.rows import read_labels, read_lines, read_rows

EXPORT = "export"  # folder of the bundle in output_dir


def argument_problems(args):
    """Faults of the arguments alone, as texts."""
    if not (args.do_train or args.do_eval or args.do_predict or args.do_export):
        yield "nothing to do: give --do_train, --do_eval, --do_predict or --do_export"
    yield paddle_device_problem(args.device)
    if int(os.environ.get("PADDLE_TRAINERS_NUM", 1)) > 1:
        yield "a few rows are trained by one process; start it without paddle.distributed.launch"
    if args.do_train:
        yield model_name_problem(args.model_name_or_path, "--model_name_or_path")
        yield checkpoint_folder_problem(args.output_dir, "prompt", "--output_dir")
        last = last_folder(args.output_dir)
        found = sorted(os.listdir(last)) if os.path.isdir(last) else []
        if strange := [name for name in found if name != "run.json" and not name.startswith("checkpoint-")]:
            yield f"{last} holds {', '.join(strange[:5])}, which would be lost; move it elsewhere"
    if args.do_train or args.do_export:
        yield bundle_folder_problem(os.path.join(args.output_dir, EXPORT), "--output_dir")
    strategies = {args.evaluation_strategy, args.save_strategy}
    otherwise = len(strategies) > 1 or "steps" in strategies and args.save_steps != args.eval_steps
    if args.load_best_model_at_end and otherwise:
        yield "--load_best_model_at_end: what is scored has to be saved; give --save_strategy as --evaluation_strategy"
    if args.load_best_model_at_end and args.evaluation_strategy == "no":
        yield "--load_best_model_at_end: without --evaluation_strategy nothing tells which is best"
    if args.evaluation_strategy == "steps" and not args.eval_steps:
        yield "--evaluation_strategy steps: say how many, --eval_steps 100"
    elif args.save_strategy == "steps" and not args.save_steps:
        yield "--save_strategy steps: say how many, --save_steps 100"
    for what, flag in (("evaluation", "eval"), ("save", "save")):
        strategy = getattr(args, f"{what}_strategy")
        if strategy != "steps" and getattr(args, f"{flag}_steps"):
            yield f"--{flag}_steps: with --{what}_strategy {strategy} it is not read; leave one of them out"
    if args.max_steps == 0 or args.max_steps < -1:
        yield "--max_steps: 1 or more, or -1 for whole epochs"
    if not args.learning_rate:
        yield "--learning_rate 0: to train prompt and label words alone, give --freeze_plm"


@dataclass
class Work:
    """What there is to work on. words: of each label. parts: the prompt. rows: {"train", "dev", "test"}, as needed.
    trained: `Checkpoint`, where nothing is trained. count: texts to label."""

    labels: object
    words: list
    parts: list
    rows: dict
    trained: object
    count: int


def read_all(args):
    """The `Work`, all of it checked at once. Completes `args`."""
    problems, trained, parts = Problems(), None, None
    for message in filter(None, argument_problems(args)):
        problems.add(message)
    with problems.collect():
        trained = None if args.do_train else open_trained(args, problems)
        parts = trained.run["prompt"] if trained else parse_prompt(args.prompt)
    was = trained.run["arguments"] if trained else {"max_seq_length": 512, "truncate_mode": "tail"}
    args.max_seq_length = args.max_seq_length or was["max_seq_length"]
    args.truncate_mode = args.truncate_mode or was["truncate_mode"]

    wanted = {"train": args.do_train, "dev": args.do_train or args.do_eval}
    needed = [f"{split}.txt" for split in wanted if wanted[split]] + (["label.txt"] if args.do_train else [])
    missing = [name for name in needed if not os.path.exists(os.path.join(args.data_dir, name))]
    if args.do_predict and not os.path.exists(texts_of(args)):
        missing.append("data.txt and no test.txt")
    if missing and not os.path.isdir(args.data_dir):
        problems.add(f"--data_dir {args.data_dir} is no folder; name the one that holds train.txt, dev.txt, label.txt")
    elif missing:
        problems.add(f"--data_dir {args.data_dir}: there is no {', no '.join(missing)}")
    problems.stop_if_any()
    if trained:
        labels, words = trained.labels, trained.run["label_words"]
    else:
        labels, words = read_label_words(os.path.join(args.data_dir, "label.txt"), problems)
    problems.stop_if_any()  # else every row would be called wrong
    wanted["test"] = args.do_predict and os.path.exists(os.path.join(args.data_dir, "test.txt"))
    rows = {}
    for split in (split for split in wanted if wanted[split]):
        rows[split] = read_labelled(os.path.join(args.data_dir, f"{split}.txt"), labels, problems)
    count = count_texts(texts_of(args), problems) if args.do_predict else 0
    problems.stop_if_any()
    return Work(labels, words, parts, rows, trained, count)


def open_trained(args, problems):
    """The `Checkpoint`, still without its model, of --resume_from_checkpoint or output_dir."""
    flag = "--resume_from_checkpoint" if args.resume_from_checkpoint else "--output_dir"
    args.resume_from_checkpoint = args.resume_from_checkpoint or args.output_dir
    trained = load_checkpoint(args.resume_from_checkpoint, None, problems, flag, "prompt")
    if args.prompt is not None and parse_prompt(args.prompt) != trained.run["prompt"]:
        problems.add("--prompt is another than that of the trained model; leave it out")
    label_file = os.path.join(args.data_dir, "label.txt")
    if os.path.exists(label_file):
        given, _ = read_label_words(label_file, problems)
        if given.names != trained.labels.names:
            problems.add(f"{label_file} does not name the labels of the trained model, in their order")
    return trained


def texts_of(args):
    """The file that --do_predict labels."""
    data = os.path.join(args.data_dir, "data.txt")
    return data if os.path.exists(data) else os.path.join(args.data_dir, "test.txt")


def read_label_words(path, problems):
    """`label.txt` with its words: lines `label` or `label==word`, several of one label for several words.

    A label without a word has itself for one, in a hierarchy its last piece.
    Returns:
        (`Labels`, [[word, ...] of each label]).
    """
    words, lines = {}, []
    for number, line in read_lines(path):
        name, equals, word = (piece.strip() for piece in line.partition("=="))
        if equals and not (name and word and "==" not in word):
            problems.add(f"{path}:{number}: {line.strip()!r}: a line is label or label==word")
        if equals and word in words.get(name, ()):
            problems.add(f"{path}:{number}: label {name!r} has the word {word!r} already; delete the line")
        if not equals or name and name not in words:
            lines.append((number, name))
        words.setdefault(name, [])
        words[name] += [word] if equals else []
    labels = read_labels(path, problems, lines)
    return labels, [words[name] or [name.rpartition(SEPARATOR)[2]] for name in labels.names]


def read_labelled(path, labels, problems):
    """`read_rows` of a file in which every row has to tell its labels: `text<TAB>` alone says that it has none."""
    for number, line in read_lines(path):
        if line.strip() and "\t" not in line:
            problems.add(
                f"{path}:{number}: a row without labels; write text<TAB>label,label, or text<TAB> if it has none of "
                "them. Texts to label belong into data.txt"
            )
    return read_rows(path, labels, problems)
