"""What a run learns from besides its labels: a teacher's probabilities, or those of a file."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from text_cls.bundle import MANIFEST
from text_cls.card_facts import last_part
from text_cls.cli import Problems, logger
from text_cls.language import tr
from text_cls.linear_classifier import LINEAR
from text_cls.neural.fewer_layers import layers_problem
from text_cls.neural.teacher import Teacher, cache_folder, main_file, probabilities_of
from text_cls.neural.training_options import Options
from text_cls.prediction import check_files
from text_cls.rows import Labels, Rows
from text_cls.soft_labels import read_soft_labels
from text_cls.soft_targets import SoftTargets, attach, new_texts, unlabelled_rows
from text_cls.table_flags import TableOptions
from text_cls.teacher_flags import WEIGHT, problems_of

WINDOW = 1024  # texts that are read at a time


@dataclass(kw_only=True)
class TeachingOptions(Options):
    """The options of `train.py` for a teacher; `teacher_flags` explains them."""

    dataset_dir: str
    teacher: str | None = None
    unlabelled: str | None = None
    soft_labels: str | None = None
    teacher_weight: float | None = None
    teacher_cache: str | None = None
    model_name: str = LINEAR
    device: str = "cpu"
    batch_size: int = 32
    text_column: list[str] = field(default_factory=list)
    sheet: str | None = None
    header_row: int | None = None
    encoding: str | None = None


def files(options: TeachingOptions) -> dict[str, tuple[str, str]]:
    """{"teacher", "unlabelled": (name, path)} of the files that must stay the same when a run is resumed."""
    found = {}
    if options.teacher and os.path.isfile(path := main_file(options.teacher)):
        found["teacher"] = (f"teacher/{os.path.basename(path)}", path)
    if name := options.unlabelled or options.soft_labels:
        found["unlabelled"] = (name, os.path.join(options.dataset_dir, name))
    return found


def argument_problems(arguments: dict) -> Iterator[str | None]:
    """Yields problems with the flags of a teacher and with --layers, as texts, or None."""
    yield from problems_of(arguments)
    model, teacher, count = arguments["model_name"], arguments["teacher"], arguments["layers"]
    if model == LINEAR:
        return
    source = "teacher" if teacher else "soft_labels"
    if arguments[source] and not arguments["epochs"]:
        yield tr(
            "--epochs 0 only fits the classifier to the labels; to learn from --{source}, use 1 or more", source=source
        )
    if not count:
        return
    if arguments["init_from_ckpt"]:
        yield (
            tr(
                "--layers {count}: the weights of --init_from_ckpt have all layers; to start with some of them, pass "
                "the checkpoint's folder as --model_name",
                count=count,
            )
        )
    if model == teacher and os.path.exists(os.path.join(teacher, MANIFEST)):
        yield (
            tr(
                "--layers {count}: --teacher {teacher} is a bundle, which cannot be trained; pass the checkpoint that "
                "it was exported from as --model_name",
                count=count,
                teacher=teacher,
            )
        )
    else:
        yield layers_problem(model, count)


class Teaching:
    """The source of the probabilities, checked; `targets` computes or reads them.

    Args:
        options: with a teacher or soft labels.
        labels: of the data. label_file: their file.
        problems: gets what is wrong with the teacher and with the files.
    """

    def __init__(self, options: TeachingOptions, labels: Labels, label_file: str, problems: Problems) -> None:
        self.options, self.teacher, self.texts, self.given = options, None, None, None
        _, self.path = files(options).get("unlabelled", (None, None))
        if options.teacher:
            with problems.collect():
                self.teacher = Teacher(options.teacher, labels, label_file, problems)
                if problem := self.teacher.device_problem(options.device):
                    problems.add(problem)
        if options.soft_labels:
            with problems.collect():
                self.given = read_soft_labels(self.path, labels, problems)
        elif options.unlabelled:
            tables = TableOptions(
                text_column=options.text_column,
                sheet=options.sheet,
                header_row=options.header_row,
                encoding=options.encoding,
            )
            self.texts = check_files(self.path, None, problems, labels, skip_blank=True, tables=tables).texts

    def targets(self, rows: dict[str, Rows]) -> SoftTargets:
        """The targets of a training, whose texts without labels are added to `rows` as "unlabelled".

        Args:
            rows: {"train", "dev" and perhaps "test": labelled rows}.
        Raises:
            UserError: the teacher's probabilities cannot be computed or written.
        """
        options, labelled = self.options, len(rows["train"])
        weight = WEIGHT if options.teacher_weight is None else options.teacher_weight
        if self.given:
            found = attach(self.given, rows, self.path, weight)
        else:
            if self.texts:
                read = (text for window in self.texts.windows(WINDOW) for text in window.texts)
                if more := new_texts(self.path, read, rows):
                    rows["unlabelled"] = unlabelled_rows(self.path, more)
            folder = options.teacher_cache or cache_folder(options.teacher)
            texts = [rows[split].texts for split in ("train", "unlabelled") if split in rows]
            values = probabilities_of(self.teacher, texts, folder, options.device, options.batch_size)
            found = SoftTargets(weight, labelled, values, np.arange(len(values)))
        name = last_part(options.teacher or options.soft_labels)
        form = tr(
            "Learning from %s, with the weight %g: probabilities of %d of %d rows with labels, and of %d texts without"
        )
        logger.info(form, name, weight, found.taught, labelled, len(found.place) - labelled)
        return found

    def card(self, found: SoftTargets) -> dict:
        """The facts for the model card about what `targets` returned."""
        name = last_part(self.options.teacher or self.options.soft_labels)
        texts = len(found.place) - found.labelled
        return {"name": name, "weight": found.weight, "rows": found.taught, "texts": texts}
