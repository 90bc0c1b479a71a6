"""Small files of labelled rows, for tests."""

from text_cls.cli import Problems
from text_cls.rows import Labels, read_rows

LABELS = Labels(["体育", "体育##足球", "体育##足球##联赛", "财经", "财经##上市"])


def rows_of(tmp_path, *lines, labels=LABELS, encoding="utf-8", name="train.txt"):
    """(Rows, messages) of a file of these lines."""
    path = tmp_path / name
    path.write_bytes("".join(f"{line}\n" for line in lines).encode(encoding))
    problems = Problems()
    return read_rows(str(path), labels, problems), problems.messages
