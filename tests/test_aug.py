import json
import subprocess

import pytest
from conftest import ROOT, command_line, lines_of, plain, write_lines

import aug as script
from augmentation import Augmenter

CORNERS = [
    "一行没有标签的文字写在这里",
    "一行标签为空的文字写在这里\t",
    f"二十个标签的一行文字\t{','.join(f'标签{i}' for i in range(20))}",
    f"{'房间很干净，早餐不错，服务热情，' * 125}\t干净",
    "😀\t表情",
    '早餐很好吃，😀 <b>"quoted"</b> & the room wasn\'t clean\t 早餐, 房间 ',
]


def augment(run, tmp_path, lines, *flags):
    """(status, output, rows written) of aug.py on the lines."""
    train, new = tmp_path / "train.txt", tmp_path / "aug.txt"
    if lines is not None:
        write_lines(train, lines)
    status, said = run(script.main, "--train_path", train, "--aug_path", new, *flags)
    return status, said, lines_of(new) if new.exists() else None


@pytest.fixture
def words(tmp_path):
    path = tmp_path / "words.json"
    path.write_text(json.dumps({"房间": ["屋子"], "早餐": ["早饭", "早点"], "room": ["chamber"]}), encoding="utf-8")
    return path


@pytest.mark.parametrize("strategy", ["substitute", "insert", "delete", "swap", "mix"])
def test_rows_are_what_the_augmenter_makes_and_labels_are_untouched(run, tmp_path, news, words, strategy):
    """An oracle without streams: the same texts, without those of train and those made before."""
    custom = ("--aug_type", "custom", "--custom_file", words)
    rows = [*CORNERS, *lines_of(news / "train.txt")[:30], *lines_of(ROOT / "data" / "multi_label" / "train.txt")[:30]]
    rows += [rows[-1], "", "  "]
    status, said, written = augment(run, tmp_path, rows, "--aug_strategy", strategy, *custom, "--seed", 7)
    assert status == 0, said
    augmenter = Augmenter(strategy, "custom", create_n=2, seed=7, custom_file=words)
    expected, texts = [], {row.partition("\t")[0] for row in rows}
    for row in rows:
        text, tab, labels = row.partition("\t")
        for new in augmenter.augment(text):
            if new not in texts:
                expected.append(new + tab + labels)
                texts.add(new)
    assert written == expected and (len(expected) > 60 or strategy in ("substitute", "insert"))
    assert f"{len(expected)} new rows from {len(rows) - 2} saved in {tmp_path / 'aug.txt'}" in said
    made_twice = min(2, len(augmenter.augment(rows[-3].partition("\t")[0])))
    assert f"Dropped: 0 already in {tmp_path / 'train.txt'}, {made_twice} duplicates" in said


def test_new_texts_that_train_already_has_are_dropped_and_counted(run, tmp_path, words):
    lines = ["房间大\t房间", "屋子大\t房间", "早餐好\t早餐", "不吃\t早餐"]
    flags = ("--aug_type", "custom", "--custom_file", words, "--create_n", 2)
    status, said, written = augment(run, tmp_path, lines, *flags)
    assert status == 0 and sorted(written) == ["早点好\t早餐", "早饭好\t早餐"]
    assert f"Dropped: 1 already in {tmp_path / 'train.txt'}, 0 duplicates" in said
    assert "1 gave fewer than 2 new rows, 2 gave none" in said


def test_a_run_that_makes_no_rows(run, tmp_path):
    status, said, written = augment(run, tmp_path, ["😀\t表情"], "--aug_strategy", "delete")
    assert status == 0 and written == [] and "0 new rows from 1" in said and "Next" not in said


@pytest.mark.parametrize("ended", [True, False])
def test_the_printed_next_step_works(run, reviews, ended):
    """Also if train.txt does not end with a line break: two rows would become one."""
    from text_cls.cli import Problems
    from text_cls.rows import read_labels, read_rows

    train, new = reviews / "train.txt", reviews / "new rows.txt"
    if not ended:
        train.write_bytes(train.read_bytes().rstrip(b"\n"))
    status, said = run(script.main, "--train_path", train, "--aug_path", new, "--aug_strategy", "swap")
    assert status == 0
    (command,) = [line.strip() for line in plain(said) if "cat" in line and "train_aug" in line]
    subprocess.run(["sh", "-c", command], check=True)
    problems = Problems()
    rows = read_rows(reviews / "train_aug.txt", read_labels(reviews / "label.txt", problems), problems)
    assert not problems.count and len(rows) == len(lines_of(train)) + len(lines_of(new))


def test_gbk_and_byte_order_mark(run, tmp_path):
    (tmp_path / "train.txt").write_bytes("\ufeff房间很大，也很干净\t房间\r\n".encode())
    status, _, written = augment(run, tmp_path, None, "--aug_strategy", "delete", "--create_n", 1)
    assert status == 0 and written[0].endswith("\t房间") and not written[0].startswith("\ufeff")
    (tmp_path / "train.txt").write_bytes("房间很大，也很干净\t房间\n".encode("gbk"))
    status, said, _ = augment(run, tmp_path, None, "--aug_strategy", "delete")
    assert status == 2 and "not UTF-8" in said


def test_all_problems_are_listed_together(run, tmp_path):
    train = tmp_path / "train.txt"
    write_lines(train, ["一\t二\t三", "\t标签", "好\t好"])
    before = train.read_bytes()
    status, said = run(script.main, "--train_path", train, "--aug_path", train, "--aug_type", "custom")
    assert status == 2 and "4 problems" in said and train.read_bytes() == before
    for part in (f"{train}:1: 2 tabs", f"{train}:2: labels without a text", "this is --train_path", "--custom_file"):
        assert part in said
    status, said, written = augment(run, tmp_path, [], "--aug_strategy", "swap")
    assert status == 2 and "no rows" in said and written is None
    status, said = run(script.main, "--train_path", tmp_path / "none.txt", "--aug_strategy", "swap")
    assert status == 2 and "No such file" in said


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--aug_percent", "0"), "above 0 and at most 1"),
        (("--aug_percent", "1.5"), "above 0 and at most 1"),
        (("--create_n", "0"), "must be a whole number of at least 1"),
        (("--aug_strategy", "rotate"), "invalid choice"),
    ],
)
def test_flags_out_of_range(run, tmp_path, flags, message):
    status, said, _ = augment(run, tmp_path, ["一\t二"], *flags)
    assert status == 2 and message in said


def test_a_missing_dictionary_and_a_missing_device(run, tmp_path, monkeypatch):
    """Reported before the first row; --device matters only to mlm."""
    import augmentation

    def no_network(*_):
        raise OSError("no network here")

    monkeypatch.setattr(augmentation, "_download", no_network)
    import paddlenlp.utils.env

    monkeypatch.setattr(paddlenlp.utils.env, "DATA_HOME", str(tmp_path / "home"))
    status, said, written = augment(run, tmp_path, ["房间很大\t房间"])
    assert status == 2 and "reason: no network here" in said and "Traceback" not in said and written is None
    for name in ("stopwords.txt", "baidu_encyclopedia_w2v_vocab.json", "word_synonym.json"):
        assert f"https://bj.bcebos.com/paddlenlp/data/{name} as {tmp_path / 'home' / 'WordSubstitute' / name}" in said
    monkeypatch.setattr(augmentation, "dataaug_files", lambda aug_type: {})
    status, said, _ = augment(run, tmp_path, ["房间很大\t房间"], "--aug_type", "mlm", "--model_name", tmp_path)
    assert status == 2 and "use --device cpu" in said and f"--model_name {tmp_path}: the folder has no" in said


@pytest.mark.parametrize("folder", [".", "analysis"])
def test_from_the_root_and_from_inside(tmp_path, folder):
    write_lines(tmp_path / "train.txt", ["房间很大，也很干净\t房间"])
    name = "analysis/aug.py" if folder == "." else "aug.py"
    flags = ["--train_path", tmp_path / "train.txt", "--aug_path", tmp_path / "aug.txt", "--aug_strategy", "delete"]
    answer = subprocess.run(command_line(name, *flags), cwd=ROOT / folder, capture_output=True, encoding="utf-8")
    assert answer.returncode == 0 and len(lines_of(tmp_path / "aug.txt")) == 2, answer.stderr
    args = script.parse_args([])
    assert (args.train_path, args.aug_path) == (str(ROOT / "data" / "train.txt"), str(ROOT / "data" / "aug.txt"))


def test_the_printed_command_reads_no_file_that_it_writes(run, tmp_path):
    """In PaddleNLP's application the new rows go to train_aug.txt."""
    write_lines(tmp_path / "train.txt", ["房间很大很安静\t房间"])
    where = ("--train_path", tmp_path / "train.txt", "--aug_path", tmp_path / "train_aug.txt")
    status, said = run(script.main, *where, "--aug_strategy", "swap")
    assert status == 0 and f"> '{tmp_path / 'train_aug2.txt'}'" in said and "--train_file train_aug2.txt" in said
