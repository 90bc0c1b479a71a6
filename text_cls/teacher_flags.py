"""Flags of train.py for learning from a teacher, or from soft labels."""

import os

from text_cls.cli import fraction, positive_int
from text_cls.language import tr
from text_cls.table_flags import add_table_flags

WEIGHT = 0.5  # of the teacher beside the labels
OF_TABLES = ("text_column", "sheet", "header_row", "encoding")
NAMES = ("teacher", "unlabelled", "soft_labels", "teacher_weight", "teacher_cache", *OF_TABLES)


def add_teacher_flags(parser):
    """Adds --teacher, --unlabelled, --soft_labels, --teacher_weight, --teacher_cache, --layers, and those of tables."""
    group = parser.add_argument_group("teacher")
    teacher = tr("checkpoint or bundle whose probabilities are learnt beside the labels (none)")
    group.add_argument("--teacher", help=teacher)
    texts = tr("texts without labels that the teacher answers: a text per line, or a table (none)")
    group.add_argument("--unlabelled", help=texts)
    soft = tr("instead of a teacher, JSON lines of texts and probabilities of labels (none)")
    group.add_argument("--soft_labels", help=soft)
    weight = tr("weight of the probabilities in the loss; the labels have the rest, up to 1 ({weight})", weight=WEIGHT)
    group.add_argument("--teacher_weight", type=fraction(zero=False, one=True), help=weight)
    group.add_argument("--teacher_cache", help="folder of the teacher's probabilities (<teacher>_probabilities)")
    layers = tr("start with this many layers of --model_name; without that flag, of --teacher (all)")
    group.add_argument("--layers", type=positive_int, help=layers)
    add_table_flags(parser, writes=False)


def problems_of(arguments: dict):
    """Yields what is wrong with the values of these flags together, as texts."""
    teacher, soft = arguments["teacher"], arguments["soft_labels"]
    if teacher and soft:
        yield tr("--teacher and --soft_labels are two sources of probabilities; leave out one of them")
    if arguments["unlabelled"] and not teacher:
        yield (
            tr(
                "--unlabelled needs --teacher, the model that answers these texts; if you have probabilities of their "
                "labels, write both into a file for --soft_labels"
            )
        )
    if arguments["teacher_weight"] is not None and not (teacher or soft):
        yield tr("--teacher_weight is the weight of --teacher or --soft_labels; add one of them, or leave it out")
    if arguments["teacher_cache"] and not teacher:
        yield tr("--teacher_cache is for the probabilities of --teacher; add that, or leave it out")
    if not arguments["unlabelled"]:
        for name in OF_TABLES:
            if arguments[name] not in (None, []):
                yield tr("--{name} is for a table of --unlabelled texts; add that, or leave it out", name=name)
    if teacher:
        folders = [arguments["save_dir"], f"{os.path.normpath(arguments['save_dir'])}_last"]
        if any(os.path.realpath(teacher) == os.path.realpath(folder) for folder in folders):
            yield tr(
                "--save_dir {save_dir}: the student would replace its teacher; name another folder",
                save_dir=arguments["save_dir"],
            )
