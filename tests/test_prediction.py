import pytest
from conftest import lines_of, plain, write_lines
from hypothesis import given
from hypothesis import strategies as st

from text_cls import prediction
from text_cls.cli import Problems, UserError, set_up_log
from text_cls.inputs import one_run
from text_cls.label_tree import levels_of
from text_cls.prediction import Job, check_files, predict_file
from text_cls.rows import Labels, read_rows
from text_cls.table_output import Output
from text_cls.table_texts import TextFile

LABELS = Labels(["体育", "体育##足球"])
BREAKS = "\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"  # what str.splitlines takes for line ends, besides LF


def test_levels_list_each_name_once():
    assert levels_of(["a", "a##x", "b", "b##x", "b##x##y"]) == [["a", "b"], ["x"], ["y"]]
    assert levels_of([]) == []


def predicted(path, labels=LABELS, with_scores=False, skip_blank=False):
    """Rows of the file that is written, as lists of columns. Each text gets its length as its label."""
    problems, output = Problems(), path.with_name("out.txt")

    def predict(texts):
        assert all(text.strip() == text != "" for text in texts)
        return (([str(len(text))], [0.5]) for text in texts)

    with one_run():
        job = check_files(path, output, problems, labels, with_scores, skip_blank)
        problems.stop_if_any()
        predict_file(job, predict, lambda text, names: None)
    content = output.read_text(encoding="utf-8")
    assert (
        content.splitlines() == content.removesuffix("\n").split("\n") and len(content.splitlines()) == job.texts.count
    )
    return [line.split("\t") for line in content.splitlines()]


@given(
    lines=st.lists(st.text(st.sampled_from(f"a好😀， \u3000{BREAKS}"))),
    end=st.sampled_from(["", "\n", "\r\n"]),
    labels=st.sampled_from(["", "\t", "\t体育", "\t体育,体育##足球 "]),
    window=st.integers(1, 4),
    with_scores=st.booleans(),
    skip_blank=st.booleans(),
)
def test_row_i_belongs_to_line_i(tmp_path_factory, lines, end, labels, window, with_scores, skip_blank):
    path = tmp_path_factory.mktemp("rows") / "data.txt"
    lines = ["第一行", *(line + labels for line in lines)]
    path.write_text("\n".join(lines) + end, encoding="utf-8", newline="\n")
    expected = []
    for line in lines if end or lines[-1] else lines[:-1]:
        text = line.partition("\t")[0].strip()
        written = " ".join(text.splitlines()) if text else ""
        row = [written, str(len(text)), "0.50000"] if text else ["", "", ""]
        if text or not skip_blank:
            expected.append(row[: 2 + with_scores])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prediction, "WINDOW", window)
        found = predicted(path, with_scores=with_scores, skip_blank=skip_blank)
    assert [[" ".join(row[0].split()), *row[1:]] for row in found] == [
        [" ".join(row[0].split()), *row[1:]] for row in expected
    ]


def test_blank_lines_are_counted(tmp_path, capsys):
    set_up_log()
    write_lines(tmp_path / "data.txt", ["一", "", "  \u3000", "二\u2028三", "\t体育"])
    assert predicted(tmp_path / "data.txt", with_scores=True) == [
        ["一", "1", "0.50000"],
        ["", "", ""],
        ["", "", ""],
        ["二 三", "3", "0.50000"],
        ["", "", ""],
    ]
    log = plain(capsys.readouterr().err)
    assert f"Prediction results save in {tmp_path / 'out.txt'}: 5 rows" in log
    assert f"3 of 5 rows are blank lines of {tmp_path / 'data.txt'}; --skip_blank leaves them out" in log
    assert (
        "1 texts contain line breaks of other kinds than LF, such as CR or U+2028; their rows have spaces there" in log
    )
    assert not any("no label" in line for line in log)
    assert [row[0] for row in predicted(tmp_path / "data.txt", skip_blank=True)] == ["一", "二 三"]


def test_the_rows_are_read_back_as_training_data(tmp_path):
    write_lines(tmp_path / "data.txt", ["一", "", "二\r三"])
    predicted(tmp_path / "data.txt")
    problems = Problems()
    rows = read_rows(tmp_path / "out.txt", Labels(["1", "3"]), problems)
    assert not problems.count and list(rows.texts) == ["一", "二 三"] and rows.lines.tolist() == [1, 3]


@pytest.mark.parametrize("other", ["id0001\t洗完澡，手纸全泡成了浆", "标题,一\t正文,二", "一\t篮球", "\t洗完澡"])
def test_a_second_column_without_a_label_is_reported(tmp_path, other):
    path = tmp_path / "data.txt"
    write_lines(path, ["一\t体育", "二", "三\t", "四\t篮球, 体育", other])
    first, _, second = other.partition("\t")
    with pytest.raises(UserError) as error:
        predicted(path)
    message = f"{path}:5: the second column, {second!r}, has no label of the model, and only the first one, {first!r}, "
    assert str(error.value) == message + "would be predicted. Keep the column with the texts: cut -f1 or cut -f2"
    assert not (tmp_path / "out.txt").exists() and len(predicted(path, labels=None)) == 5


def test_a_file_that_grows_outside_a_script(tmp_path):
    path = tmp_path / "data.txt"
    write_lines(path, ["一", "二"])
    (tmp_path / "out.txt").write_text("old\n", encoding="utf-8")
    with pytest.raises(UserError, match="changed while it was read"):
        predict_file(Job(TextFile(path, 1), Output(tmp_path / "out.txt")), lambda texts: [([], [])] * len(texts), print)
    assert lines_of(tmp_path / "out.txt") == ["old"]


def test_a_predictor_that_answers_too_little_is_an_error(tmp_path):
    path = tmp_path / "data.txt"
    write_lines(path, ["一", "二"])
    with pytest.raises(RuntimeError):
        predict_file(Job(TextFile(path, 2), Output(tmp_path / "out.txt")), lambda texts: [([], [])], print)
    assert not (tmp_path / "out.txt").exists()
