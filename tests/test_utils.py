from labelled_rows import LABELS, rows_of

from utils import describe, describe_pair


def test_summary_of_one_file(tmp_path):
    rows, _ = rows_of(tmp_path, "甲\t体育", "乙", "", "甲\t体育", "甲\t财经")
    lines = list(describe(rows))
    assert lines[0].endswith("4 rows, 0.75 labels per row, 1 without a label, 1 blank lines skipped")
    assert "2 rows repeat the text of another row; first: lines 1 and 4" in lines[1]
    assert "1 of them have other labels than that row; first: lines 4 and 5" in lines[2]
    clean, _ = rows_of(tmp_path, "甲\t体育", "乙\t财经")
    assert len(list(describe(clean))) == 1


def test_summary_of_train_and_dev(tmp_path):
    train, _ = rows_of(tmp_path, "甲\t体育", "乙\t财经")
    dev, _ = rows_of(tmp_path, "丙\t体育", "乙\t财经", name="dev.txt")
    lines = list(describe_pair(train, dev, LABELS))
    assert "1 rows have a text that is also in" in lines[0] and "(first: line 2)" in lines[0]
    assert "3 labels have no row and cannot be learnt: 体育##足球, 体育##足球##联赛, 财经##上市" in lines[1]
