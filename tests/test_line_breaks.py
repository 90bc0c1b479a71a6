"""What other readers take for the end of a line is in no file that a script writes, whatever is in the texts."""

import json
import re
import shutil

import pytest
from conftest import lines_of, load_script, write_lines

from text_cls.cli import Problems
from text_cls.files import atomic_write, write_json
from text_cls.rows import Labels, format_row, one_line, read_labels

BREAKS = "\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
ANY = re.compile(f"[{BREAKS}]")


def test_these_are_all_that_python_knows():
    assert set(BREAKS) | {"\n"} == {chr(i) for i in range(0x110000) if len(f"a{chr(i)}b".splitlines()) > 1}


def test_a_row_has_spaces():
    text = "".join(f"{i}{character}" for i, character in enumerate(BREAKS))
    assert one_line(text) == "0 1 2 3 4 5 6 7 8 " and one_line("a\r\nb\t\tc") == "a b c"
    assert format_row(f"a{BREAKS}b", "c\td", "") == "a b\tc d\t\n"
    assert format_row("一行 文字", "标签") == "一行 文字\t标签\n"


def test_any_other_file_has_escapes(tmp_path):
    write_json(tmp_path / "a.json", [BREAKS, "\x00\u200b"])
    content = (tmp_path / "a.json").read_bytes().decode()
    assert not ANY.search(content) and "\\u2028" in content and json.loads(content) == [BREAKS, "\x00\u200b"]
    with atomic_write(tmp_path / "a.txt") as file:
        file.writelines(["a\u2028b\n", "c\x85"])
    assert (tmp_path / "a.txt").read_bytes() == b"a\\u2028b\nc\\u0085"


def test_a_label_of_an_old_model(tmp_path):
    Labels(["a\u2028b", "c"]).write(tmp_path / "label.txt")
    assert read_labels(tmp_path / "label.txt", Problems()).names == ["a b", "c"]


def broken(folder):
    """Puts each of the characters into some texts of a data set, between letters, where they matter most."""
    for name in ("train.txt", "dev.txt", "data.txt"):
        lines = lines_of(folder / name)
        write_lines(folder / name, [f"{line[:3]}a{BREAKS[i % len(BREAKS)]}b{line[3:]}" for i, line in enumerate(lines)])


def explain(where, folder):
    reports = "--report_file", folder / "report.json", "--html", folder / "report.html"
    words = "--interpreter", "grad", "--max_rows", 3
    return [
        (load_script("analysis/evaluate.py"), *where, *reports),
        (load_script("analysis/sent_interpret.py"), *where),
        (load_script("analysis/word_interpret.py"), *where, *words),
    ]


def sparse(where, folder):
    script = load_script("analysis/sparse.py")
    flags = "--support_threshold", -1, "--sparse_num", 20, "--support_num", 20
    return [
        (script, *where, *flags, "--aug_strategy", "swap"),
        (script, *where, *flags, "--annotate", "--sparse_file", "sparse2.txt", "--support_file", "support2.txt"),
    ]


def data(where, folder):
    only = where[:2]
    return [
        (load_script("analysis/check_data.py"), *only, "--no_baseline"),
        (load_script("analysis/dirty.py"), *only, "--dirty_num", 300, "--device", "cpu"),
        (load_script("analysis/split.py"), *only, "--input_file", "train.txt", "--output_dir", folder / "split"),
        (load_script("analysis/aug.py"), "--train_path", folder / "train.txt", "--aug_path", folder / "aug.txt")
        + ("--aug_strategy", "swap"),
    ]


@pytest.mark.parametrize("scripts", [explain, sparse, data], ids=lambda scripts: scripts.__name__)
def test_no_output_has_one(run, trained, tmp_path, scripts):
    dataset, model = trained["reviews"]
    folder = shutil.copytree(dataset, tmp_path / "data")
    broken(folder)
    before = {path: path.read_bytes() for path in folder.rglob("*")}
    where = ("--dataset_dir", folder, "--params_path", model, "--device", "cpu")
    for script, *flags in scripts(where, folder):
        status, log = run(script.main, *flags)
        assert status == 0, log
    written = [path for path in folder.rglob("*") if path.is_file() and path not in before]
    assert len(written) >= 4 and all(path.read_bytes() == content for path, content in before.items())
    for path in written:
        assert not ANY.search(path.read_bytes().decode()), path
        if path.suffix == ".txt" and path.name not in ("label.txt", "sent_interpret.txt"):
            assert all(1 <= len(line.split("\t")) <= 3 for line in lines_of(path))


def test_doccano(run, tmp_path):
    script = load_script("data/doccano.py")
    rows = [{"text": f"第{i}条a{c}b", "label": ["好" if i % 2 else "差"]} for i, c in enumerate(BREAKS + "\t\n")]
    write_lines(tmp_path / "doccano.jsonl", [json.dumps(row) for row in rows])
    flags = "--doccano_file", tmp_path / "doccano.jsonl", "--task_type", "multi_label", "--save_dir", tmp_path / "out"
    status, log = run(script.main, *flags)
    assert status == 0 and "11 texts contained tabs or line breaks, now spaces" in log
    for path in (tmp_path / "out").iterdir():
        assert not ANY.search(path.read_bytes().decode()), path
    assert len(lines_of(tmp_path / "out" / "train.txt")) + len(lines_of(tmp_path / "out" / "dev.txt")) == len(rows)


@pytest.mark.parametrize(("name", "label"), [("好\u2028差", "好 差"), ("好\n差", None), ("好\t差", None)])
def test_a_label_with_one(run, tmp_path, name, label):
    write_lines(tmp_path / "doccano.jsonl", [json.dumps({"text": text, "label": [name]}) for text in "ab"])
    flags = "--doccano_file", tmp_path / "doccano.jsonl", "--task_type", "multi_label", "--save_dir", tmp_path / "out"
    status, log = run(load_script("data/doccano.py").main, *flags)
    if label is None:
        assert status == 2 and "contains a tab or a line break" in log
    else:
        assert status == 0 and lines_of(tmp_path / "out" / "label.txt") == [label], log
