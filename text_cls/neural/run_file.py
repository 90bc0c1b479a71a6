"""`run.json` of a checkpoint: what it may contain, and the SHA-256 of the files beside it.

Older versions wrote fewer fields, so only what a script cannot do without is required.
"""

import contextlib
import os
import platform
import subprocess
from importlib import metadata

from text_cls.card_facts import CARD
from text_cls.files import recover_folder, sha256
from text_cls.language import N_, reason_of, tr
from text_cls.long_texts import MODES, POOLINGS
from text_cls.schema import (
    ANY,
    FILE_NAME,
    FLAG,
    NUMBER,
    OBJECT,
    SHA256,
    TEXT,
    by_kind,
    fields,
    list_of,
    map_of,
    one_of,
    or_null,
    read_json,
    whole,
)

RUN_FILE = "run.json"
SAFETENSORS, PDPARAMS = "model.safetensors", "model_state.pdparams"
WEIGHT_FILES = (SAFETENSORS, PDPARAMS)  # of a checkpoint, the preferred one first; both have the same weights

LONGEST = 1_000_000  # tokens per text that any model could take
REMEDY = N_("train again, or restore the folder from a backup")

_MAX_SEQ_LENGTH = {"max_seq_length": whole(1, LONGEST)}
_LONG_TEXTS = {
    **{"long_texts": one_of(*MODES), "window_pooling": one_of(*POOLINGS)},
    **{"stride": or_null(whole(1)), "max_windows": whole(1)},
}


def _files(where, value):
    """{name: SHA-256, or null for a file that may change or be missing}; older versions recorded a list of names."""
    check = list_of(TEXT) if isinstance(value, list) else map_of(or_null(SHA256), key=FILE_NAME)
    return check(where, value)


_PROGRESS = {
    "epoch": whole(0),
    "batch": whole(0),
    "step": whole(0),
    "best_score": or_null(NUMBER),
    "epochs_without_better": whole(0),
    "history": list_of(OBJECT),
    "finished": FLAG,
}
_ANY_RUN = {
    "arguments": fields({}, {**_MAX_SEQ_LENGTH, **_LONG_TEXTS}),
    "data": map_of(TEXT),
    "processes": whole(1),
    "progress": fields({}, _PROGRESS, others=False),
    "files": _files,
    "chosen": list_of(TEXT),
    "card": CARD,
    "seeds": fields({"kept": whole(0), "scores": map_of(NUMBER)}),
}
RUN = by_kind(
    {
        "classification": fields({}, _ANY_RUN),
        "retrieval": fields({"corpus": or_null(list_of(TEXT)), "arguments": fields(_MAX_SEQ_LENGTH)}, _ANY_RUN),
        "prompt": fields(
            {"arguments": fields(_MAX_SEQ_LENGTH, {"truncate_mode": one_of("tail", "head")})},
            {**_ANY_RUN, "prompt": list_of(map_of(ANY), least=1), "label_words": list_of(list_of(TEXT, least=1))}
            | {"checkpoints": map_of(map_of(SHA256, key=FILE_NAME), key=FILE_NAME)},
        ),
    },
    default="classification",
)
RESUMABLE = fields(  # a run to be resumed
    {name: _ANY_RUN[name] for name in ("arguments", "data", "processes", "files")}
    | {"progress": fields(_PROGRESS, others=False)}
)


def read_run(path, check=RUN, remedy=None):
    """`run.json` of the folder `path` as a dict; empty if the folder has none.

    Raises:
        UserError: the file is damaged, or `check` finds a fault; the message ends with the remedy (of a checkpoint).
    """
    recover_folder(path)
    file = os.path.join(path, RUN_FILE)
    return read_json(file, check, remedy or tr(REMEDY)) if os.path.exists(file) else {}


def file_sums(folder):
    """{name: SHA-256} of the files in a folder."""
    return {name: sha256(os.path.join(folder, name)) for name in sorted(os.listdir(folder))}


def weight_files(folder):
    """Names of the `WEIGHT_FILES` in a folder, the preferred one first."""
    return [name for name in WEIGHT_FILES if os.path.exists(os.path.join(folder, name))]


def weights_folder(path):
    """The folder of weights that a user named: the folder itself, or a file in it."""
    return path if os.path.isdir(path) else os.path.dirname(path) or "."


def sums_problem(files, names):
    """Which of these files has no sum in `files` of a `run.json`, or None. Older versions recorded no sums at all."""
    missing = [name for name in names if isinstance(files, dict) and not files.get(name)]
    return tr("{run_file}: no SHA-256 of {missing}", run_file=RUN_FILE, missing=missing[0]) if missing else None


def damage(folder, files):
    """Why the files in a folder are not those of a checkpoint, as "name: why" of the first; None if they are.

    files: of its `run.json`. Older versions recorded only names; then nothing is checked. One of the weight files may
        be missing if the other is there: they have the same weights.
    """
    for name, digest in files.items() if isinstance(files, dict) else ():
        try:
            if digest and sha256(os.path.join(folder, name)) != digest:
                return tr("{name}: its SHA-256 differs", name=name)
        except FileNotFoundError:
            if name not in WEIGHT_FILES or not weight_files(folder):
                return f"{name}: missing"
        except OSError as error:
            return f"{name}: {reason_of(error)}"
    return None


def describe_run(arguments, files, packages=("paddlepaddle", "paddlepaddle-gpu", "paddlenlp", "numpy")):
    """What `run.json` says about the origin of a checkpoint. files: {name: path} of the data."""
    return {
        "arguments": arguments,
        "data": {name: sha256(path, again=True) for name, path in files.items()},
        "packages": versions(packages),
        "python": platform.python_version(),
        "commit": _commit(),
    }


def versions(packages):
    """{package: version} of the installed ones."""
    found = {}
    for name in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _commit():
    """Commit of this code, with `+` if files differ from it; None without git or outside a repository."""
    here = os.path.dirname(os.path.abspath(__file__))
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=40"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
