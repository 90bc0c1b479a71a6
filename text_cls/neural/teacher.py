"""A teacher's probabilities of texts, computed once and kept on disk: `--teacher` of train.py.

The teacher is a checkpoint, or a bundle of any kind. Its probabilities are those of its logits, whatever decision.json
says. They are kept in files of `ROWS` texts each, named after a hash of the teacher and of these texts: a run that was
stopped goes on with the next file, and other students of this teacher, and files with more texts, use what is there.
"""

import hashlib
import os
import shutil
import time
from collections.abc import Sequence

import numpy as np

from text_cls.bundle import DECISION, MANIFEST, open_bundle
from text_cls.cli import Problems, UserError, is_main_process, logger
from text_cls.files import atomic_write, sha256
from text_cls.language import reason_of, tr
from text_cls.model_card import CARD
from text_cls.neural.checkpoint import load_checkpoint, load_model
from text_cls.neural.model import paddle_device_problem
from text_cls.neural.run_file import RUN_FILE, weight_files
from text_cls.neural.windows import encode_texts, logits_of_texts
from text_cls.probabilities import sigmoid
from text_cls.reference import REFERENCE
from text_cls.rows import Labels
from text_cls.soft_targets import Stacked

ROWS = 4096  # texts of a file: what a kill can cost
STORED = np.float16  # within 0.0005 of the probability
OTHERS = {DECISION, REFERENCE, CARD, RUN_FILE, MANIFEST}  # files that do not change a probability
WAIT = 0.5  # seconds between two looks at what another process computes


def main_file(path: str) -> str:
    """The file by which a run that is resumed tells that its teacher is another one: weights, or a manifest."""
    names = [MANIFEST] if os.path.exists(os.path.join(path, MANIFEST)) else weight_files(path)
    return os.path.join(path, *names[:1])


class Teacher:
    """A trained model whose probabilities are to be learnt.

    Args:
        path: folder of a checkpoint of train.py or of a bundle.
        labels: those of the data. label_file: their file, for messages.
        problems: gets what is wrong with it.
    Raises:
        UserError: it is neither, is damaged, or has other labels.
    """

    def __init__(self, path: str, labels: Labels, label_file: str, problems: Problems) -> None:
        self.path, self.checkpoint, self.bundle = path, None, None
        if os.path.exists(os.path.join(path, MANIFEST)):
            self.bundle = open_bundle(path)
        else:
            self.checkpoint = load_checkpoint(path, None, problems, "--teacher")
        own = (self.bundle or self.checkpoint).labels
        self.labels, self.columns = own, columns_of(path, own, label_file, labels)

    def device_problem(self, device: str) -> str | None:
        """Why it cannot compute on a device, or None."""
        return paddle_device_problem(device) if self.checkpoint and not self.checkpoint.is_linear else None

    def digest(self) -> str:
        """What differs between two teachers whose probabilities may differ, as hexadecimal digits."""
        found = hashlib.sha256(repr(self._reading()).encode())
        for name in sorted(set(os.listdir(self.path)) - OTHERS):
            file = os.path.join(self.path, name)
            if os.path.isfile(file):
                found.update(f"{name} {sha256(file)}\n".encode())
        return found.hexdigest()

    def _reading(self):
        """How it reads texts and computes probabilities, apart from its files."""
        if self.bundle:
            names = ("kind", "max_seq_length", "long_texts", "search", "index")
            return [self.bundle.manifest.get(name) for name in names]
        return [self._length(), self.checkpoint.long_texts]

    def _length(self):
        return self.checkpoint.run.get("arguments", {}).get("max_seq_length", 128)

    def load(self, device: str, batch_size: int) -> None:
        """Loads it on a device, for `probabilities` of `batch_size` texts at a time."""
        self.batch_size = batch_size
        if self.checkpoint:
            load_model(self.checkpoint, device, "--teacher")
            return
        from text_cls.serving import open_predictor
        from text_cls.serving.predictor import onnx_device_problem

        wanted = "gpu" if device.startswith("gpu") else "cpu"
        if wanted == "gpu" and onnx_device_problem("gpu"):
            logger.info("--teacher %s: ONNX Runtime has no CUDA here; it runs on the CPU", self.path)
            wanted = "cpu"
        number = int(device.partition(":")[2] or 0) if wanted == "gpu" else 0
        self.predictor = open_predictor(self.path, device=wanted, device_id=number, batch_size=batch_size)

    def probabilities(self, texts: list[str]) -> np.ndarray:
        """Its probabilities, float32 array [texts, its labels]."""
        if self.bundle:
            return self.predictor.probabilities(texts)
        tokens = encode_texts(self.checkpoint, texts, self._length())
        return sigmoid(logits_of_texts(self.checkpoint, tokens, self.batch_size))

    def release(self, device: str) -> None:
        """Frees its memory for the student."""
        self.predictor = None
        if self.checkpoint:
            self.checkpoint.model = None
            if device.startswith("gpu") and not self.checkpoint.is_linear:
                import paddle

                paddle.device.cuda.empty_cache()


def columns_of(path: str, own: Labels, label_file: str, labels: Labels) -> np.ndarray:
    """Which of the teacher's labels each of the data's is: int array. Raises UserError if they are not the same."""
    columns = [own.find(name) for name in labels.names]
    missing = [name for name, column in zip(labels.names, columns) if column is None]
    extra = [name for i, name in enumerate(own.names) if i not in columns]
    if not missing and not extra:
        return np.array(columns)
    parts = [
        f"{what} {', '.join(names[:5])}" + (tr(" and {others} more", others=len(names) - 5) if len(names) > 5 else "")
        for what, names in ((tr("it does not know"), missing), (tr("only it has"), extra))
        if names
    ]
    remedy = tr(
        "Name a teacher that was trained with this file, or train one; its own labels are in {path}/label.txt",
        path=path,
    )
    raise UserError(
        tr(
            "--teacher {path}: its labels are not those of {label_file} ({parts}). {remedy}",
            path=path,
            label_file=label_file,
            parts="; ".join(parts),
            remedy=remedy,
        )
    )


# --------------------------------------------------------------------------------------------------------------- cache


def cache_folder(path: str) -> str:
    """The default folder of a teacher's probabilities, beside it."""
    return f"{os.path.normpath(path)}_probabilities"


def probabilities_of(
    teacher: Teacher, files: Sequence[Sequence[str]], folder: str, device: str, batch_size: int
) -> Stacked:
    """The teacher's probabilities of texts, in the data's order of labels, from `folder` or computed and put there.

    Args:
        files: texts of one or more files, whose probabilities follow each other.
        folder, device, batch_size: where they are kept, and how the teacher computes.

    Of several processes, the first computes them and the others wait: they need no connection for it, and so no limit
    of its time.

    Raises:
        UserError: the folder cannot be written, or has too little space.
    """
    digest, columns = teacher.digest(), len(teacher.labels)
    pieces = {}  # {file: its texts}
    for texts in files:
        for start in range(0, len(texts), ROWS):
            piece = _Piece(texts, range(start, min(start + ROWS, len(texts))))
            pieces[os.path.join(folder, f"{piece.key(digest)}.npy")] = piece
    missing = [file for file, piece in pieces.items() if _opened(file, len(piece), columns) is None]
    if is_main_process():
        total, count = (sum(len(pieces[file]) for file in some) for some in (pieces, missing))
        where = tr("those of {total} are in {folder} already", total=total - count, folder=folder)
        logger.info("Teacher: the probabilities of %d texts%s", total, f"; {where}" if count < total else "")
        if missing:
            _prepare(folder, count * columns * np.dtype(STORED).itemsize)
            teacher.load(device, batch_size)
            _compute(teacher, {file: pieces[file] for file in missing}, count)
            teacher.release(device)
    return Stacked([_wait_for(file, len(piece), columns) for file, piece in pieces.items()], teacher.columns)


class _Piece:
    """Texts of a file that are computed and kept together, by their numbers."""

    def __init__(self, texts, numbers):
        self.texts, self.numbers = texts, numbers

    def __len__(self):
        return len(self.numbers)

    def __iter__(self):
        return (self.texts[i] for i in self.numbers)

    def key(self, digest):
        """The name of the file. digest: of the teacher."""
        key = hashlib.sha256(digest.encode())
        for text in self:
            key.update(text.encode("utf-8") + b"\n")  # a text has no line breaks
        return key.hexdigest()[:32]


def _wait_for(file, rows, columns):
    """The probabilities in a file, once the main process has written it."""
    while (found := _opened(file, rows, columns)) is None:
        if is_main_process():
            raise UserError(tr("{file} was removed or changed while it was used; run this again", file=file))
        time.sleep(WAIT)
    return found


def _opened(file, rows, columns):
    """The probabilities in a file, memory-mapped; None if there are none of this shape."""
    try:
        found = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return found if found.shape == (rows, columns) and found.dtype == STORED else None


def _prepare(folder, size):
    """Makes the folder. Raises UserError if it cannot be made, or `size` bytes do not fit into it."""
    remedy = tr("name another folder with --teacher_cache")
    try:
        os.makedirs(folder, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise UserError(
            tr("cannot write to {folder}: {error}; {remedy}", folder=folder, error=reason_of(error), remedy=remedy)
        ) from error
    if not os.access(folder, os.W_OK):
        raise UserError(tr("cannot write to {folder}; {remedy}", folder=folder, remedy=remedy))
    if size > free:
        shown = tr(
            "{size:,.0f} MiB, and {folder} has {free:,.0f} MiB left",
            size=size / 2**20,
            folder=folder,
            free=free / 2**20,
        )
        raise UserError(
            tr(
                "the teacher's probabilities take {shown}; {remedy}, free some space, or use fewer texts",
                shown=shown,
                remedy=remedy,
            )
        )


def _compute(teacher, pieces, count):
    """Computes and writes files of `count` texts. pieces: {file: its `_Piece`}."""
    done, started = 0, time.perf_counter()
    for file, piece in pieces.items():
        values = teacher.probabilities([*piece]).astype(STORED)
        if np.isnan(values).any():
            raise UserError(
                tr("--teacher {path}: its probabilities are no numbers; name a teacher that works", path=teacher.path)
            )
        with atomic_write(file) as out:
            np.save(out.buffer, values)
        done += len(piece)
        speed = done / (time.perf_counter() - started)
        logger.info("Teacher: %d of %d texts, %.0f texts/s, %.0f s left", done, count, speed, (count - done) / speed)
