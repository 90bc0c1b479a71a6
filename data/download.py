"""Download one of the two public data sets of the guides and check it. Writes the whole data set or nothing.

    python data/download.py baidu_extract_2020                 # hierarchical: 11958 + 1498 rows, 74 labels
    python data/download.py divorce                            # multi-label:  14377 + 1611 rows, 20 labels
    python data/download.py divorce --archive divorce.tar.gz   # an archive downloaded by other means

Then: python train.py --dataset_dir data/divorce. Both sets are for research; their terms forbid redistribution.
"""

import argparse
import contextlib
import os
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from text_cls.argument_parser import ArgumentParser
from text_cls.cli import Problems, UserError, command
from text_cls.files import atomic_folder
from text_cls.language import tr
from text_cls.locks import write_lock
from text_cls.rows import read_labels, read_rows
from text_cls.terminal import progress_bar

SOURCE = "https://paddlenlp.bj.bcebos.com/datasets/{}.tar.gz"
SIZES = {  # rows of train.txt and dev.txt, and labels, as published
    "baidu_extract_2020": (11958, 1498, 74),
    "divorce": (14377, 1611, 20),
}
WANTED = ("train.txt", "dev.txt", "test.txt", "label.txt", "data.txt")
LARGEST = 200 << 20  # bytes of an archive or of a file in it: both sets are below 10 MB
SILENCE = 30  # seconds without an answer


def parse_args(argv=None):
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("name", choices=sorted(SIZES), help="data set (required)")
    parser.add_argument("--output_dir", help="output folder; must not exist (data/NAME)")
    parser.add_argument("--url", help=tr("address of the archive ({address})", address=SOURCE.format("NAME")))
    parser.add_argument("--archive", help="use this .tar.gz instead of downloading (none)")
    return parser.parse_args(argv)


def download(url, path):
    """Downloads a file of at most LARGEST bytes. Raises a UserError that says how else to get it."""
    remedy = tr("download it with a browser or on another machine, then use --archive FILE")
    try:
        with urllib.request.urlopen(url, timeout=SILENCE) as answer, open(path, "wb") as file:
            total = int(answer.headers.get("Content-Length") or 0)
            with progress_bar(total, "B") as bar:
                while block := answer.read(1 << 16):
                    file.write(block)
                    bar.update(len(block))
                    if file.tell() > LARGEST:
                        raise UserError(
                            tr(
                                "{url}: larger than {largest} MiB, so not the data set; {remedy}",
                                url=url,
                                largest=LARGEST >> 20,
                                remedy=remedy,
                            )
                        )
            if total and file.tell() != total:
                raise UserError(
                    tr(
                        "{url}: stopped after {tell} of {total} bytes; run again, or {remedy}",
                        url=url,
                        tell=file.tell(),
                        total=total,
                        remedy=remedy,
                    )
                )
    except (urllib.error.URLError, OSError) as error:
        raise UserError(f"{url}: {getattr(error, 'reason', error)}; {remedy}") from error


def unpack(archive, folder):
    """Writes the `WANTED` files of a .tar.gz into the folder, ignoring folders in the archive, and nothing else."""
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                name = os.path.basename(member.name)
                if name not in WANTED or not member.isfile():
                    continue
                if member.size > LARGEST:
                    raise UserError(
                        tr(
                            "{archive}: {name} is larger than {largest} MiB, so not the data set",
                            archive=archive,
                            name=name,
                            largest=LARGEST >> 20,
                        )
                    )
                with tar.extractfile(member) as source, open(os.path.join(folder, name), "wb") as target:
                    target.write(source.read())
    except FileNotFoundError as error:
        raise UserError(tr("--archive {archive}: no such file", archive=archive)) from error
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(
            tr("{archive}: not a complete .tar.gz archive ({error}); download it again", archive=archive, error=error)
        ) from error


def verify(folder, sizes):
    """Reads the data set as train.py does, and compares its size with the published one."""
    problems, found = Problems(), []
    with problems.collect():
        labels = read_labels(os.path.join(folder, "label.txt"), problems)
        found = [len(read_rows(os.path.join(folder, f"{split}.txt"), labels, problems)) for split in ("train", "dev")]
        found.append(len(labels))
    if not problems.count and tuple(found) != sizes:
        problems.add(
            tr(
                "the archive has {train} + {dev} rows and {labels} labels, but {train_wanted} + {dev_wanted} and "
                "{labels_wanted} are published: it is another version, or damaged",
                train=found[0],
                dev=found[1],
                labels=found[2],
                train_wanted=sizes[0],
                dev_wanted=sizes[1],
                labels_wanted=sizes[2],
            )
        )
    problems.stop_if_any()


def fetch(archive, output_dir, sizes):
    """Unpacks an archive to a folder, which is created only if the archive matches the published data set."""
    if os.path.exists(output_dir):
        raise UserError(
            tr(
                "{output_dir} already exists; remove it, or name another folder with --output_dir",
                output_dir=output_dir,
            )
        )
    with atomic_folder(output_dir) as folder:
        unpack(archive, folder)
        verify(folder, sizes)


@command
def main(argv=None):
    args = parse_args(argv)
    output_dir = args.output_dir or str(HERE / args.name)
    with contextlib.ExitStack() as stack:
        stack.enter_context(write_lock(output_dir))
        archive = args.archive
        if archive is None:
            url = args.url or SOURCE.format(args.name)
            archive = os.path.join(stack.enter_context(tempfile.TemporaryDirectory()), "archive.tar.gz")
            print(f"Downloading {url}")
            download(url, archive)
        fetch(archive, output_dir, SIZES[args.name])
    print(
        tr(
            "{output_dir}: checked and complete. Next: python train.py --dataset_dir {output_dir}",
            output_dir=output_dir,
        )
    )


if __name__ == "__main__":
    sys.exit(main())
