"""Folders on disk and in object stores, through pyarrow's file systems; files are written whole or not at all.

A file on disk appears by a rename, an object by the end of its upload; so a reader finds a whole file or none.
"""

import contextlib
import fnmatch
import json
import os
import string
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO
from urllib.parse import quote

import pyarrow as pa
from pyarrow import fs

from text_cls.cli import UserError
from text_cls.files import atomic_write
from text_cls.language import reason_of, tr

STORES = ("s3", "gcs")  # where an object is visible only when its upload is complete
ANY = "*?["  # what makes a path a pattern


@dataclass
class Folder:
    """A folder. filesystem: pyarrow's. root: its path there."""

    filesystem: Any
    root: str

    @property
    def is_local(self) -> bool:
        return self.filesystem.type_name == "local"

    def path(self, name: str) -> str:
        return f"{self.root.rstrip('/')}/{name}"

    def files(self) -> dict[str, Any]:
        """{name, with the folders below the root: pyarrow.fs.FileInfo} of all files; empty if there is no folder."""
        selector = fs.FileSelector(self.root, recursive=True, allow_not_found=True)
        with reported(self.root):
            found = [info for info in self.filesystem.get_file_info(selector) if info.type == fs.FileType.File]
        return {info.path[len(self.root.rstrip("/")) + 1 :]: info for info in found}

    def open(self, name: str) -> Any:
        """A file to read at any place: a pyarrow.NativeFile."""
        with reported(self.path(name)):
            return self.filesystem.open_input_file(self.path(name))

    @contextlib.contextmanager
    def write(self, name: str) -> Iterator[BinaryIO]:
        """A binary file that appears, whole, at the end of the block, unless this raises an exception."""
        path = self.path(name)
        if self.is_local:
            with atomic_write(path) as file:
                yield file.buffer
            return
        # pyarrow completes an upload even when an exception closes its stream; so this starts when the file is whole.
        with tempfile.NamedTemporaryFile() as file:
            yield file
            file.flush()
            with reported(path), pa.OSFile(file.name) as whole:
                with self.filesystem.open_output_stream(path) as stream:
                    while block := whole.read(1 << 24):
                        stream.write(block)

    def read_json(self, name: str) -> Any:
        """The content of a JSON file; None if there is no such file."""
        with reported(self.path(name)):
            if self.filesystem.get_file_info(self.path(name)).type != fs.FileType.File:
                return None
            with self.filesystem.open_input_file(self.path(name)) as file:
                return json.loads(file.read())

    def write_json(self, name: str, value: Any) -> None:
        """Writes a value as JSON."""
        with self.write(name) as file:
            file.write((json.dumps(value, ensure_ascii=False, indent=2) + "\n").encode())


@contextlib.contextmanager
def reported(path):
    """Raises errors of a file system, and of what is in a file, as a UserError with its path."""
    try:
        yield
    except (OSError, pa.ArrowException, ValueError) as error:
        raise UserError(f"{path}: {reason_of(error)}") from error


def open_folder(uri: str) -> Folder:
    """The folder of a path, or of an address such as s3://bucket/folder. It need not exist.

    Raises:
        UserError: the address is not one of a known kind, or has no bucket.
    """
    if "://" not in uri:
        return Folder(fs.LocalFileSystem(), os.path.abspath(uri))
    with reported(uri):
        filesystem, root = fs.FileSystem.from_uri(quote(uri, safe=string.punctuation))
    if filesystem.type_name not in ("local", *STORES):
        raise UserError(tr("{uri}: use a folder on disk, or an address that begins with s3:// or gs://", uri=uri))
    return Folder(filesystem, root)


def find_files(uri: str) -> tuple[Folder, dict[str, Any]]:
    """The files of a file, a folder with those in it, or a pattern such as s3://bucket/day-*/*.parquet.

    Returns:
        The folder that holds them all, and {name: FileInfo} in order. Names that begin with . or _ are left out.
    """
    address, mark, options = uri.partition("?") if "://" in uri else (uri, "", "")
    pieces = address.split("/")
    first = next((i for i, piece in enumerate(pieces) if set(piece) & set(ANY)), None)
    if first is None or (not mark and os.path.exists(uri)):
        folder, pattern = open_folder(uri), None
        with reported(uri):
            info = folder.filesystem.get_file_info(folder.root)
        if info.type == fs.FileType.File:
            parent, name = os.path.split(folder.root)
            return Folder(folder.filesystem, parent), {name: info}
    else:
        folder, pattern = open_folder(("/".join(pieces[:first]) or ".") + mark + options), pieces[first:]
    found = {name: info for name, info in sorted(folder.files().items()) if _is_chosen(name.split("/"), pattern)}
    if not found:
        raise UserError(tr("{uri}: no files; check the folder and the name", uri=uri))
    return folder, found


def _is_chosen(pieces, pattern):
    if any(piece.startswith((".", "_")) for piece in pieces):
        return False
    return pattern is None or (len(pieces) == len(pattern) and all(map(fnmatch.fnmatchcase, pieces, pattern)))
