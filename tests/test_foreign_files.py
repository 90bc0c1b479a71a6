"""text_cls/foreign_files.py: what a file that is not UTF-8 text is called, and which texts are left alone."""

import bz2
import gzip
import io
import json
import lzma
import random
import subprocess
import tarfile
import zipfile

import pytest
from conftest import ROOT, command_line

from text_cls.cli import UserError
from text_cls.foreign_files import SAMPLE
from text_cls.rows import read_lines

SIMPLIFIED = "原告与被告于二〇一四年结婚，婚后生有一女，现已分居六年有余，夫妻感情确已破裂。"
TRADITIONAL = "原告與被告於二零一四年結婚，婚後生有一女，現已分居六年有餘，我們的國家這個時候說話。"


def message_of(path, content):
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        list(read_lines(str(path)))
    return str(error.value)


def rows(text, size, seed=3):
    """`size` characters or a few more in rows of random lengths."""
    draw, found = random.Random(seed), []
    while size > 0:
        found.append(f"{text[: draw.randrange(5, len(text))]} a{'b' * draw.randrange(3)}\t{text[:2]}\n")
        size -= len(found[-1])
    return "".join(found)


@pytest.mark.parametrize(
    ("text", "encoding", "name"),
    [
        (SIMPLIFIED, "gbk", "GB18030"),
        ("\U00020000㐀" + SIMPLIFIED, "gb18030", "GB18030"),  # characters of four bytes
        (TRADITIONAL, "big5", "BIG5"),
        (SIMPLIFIED, "utf-16", "UTF-16"),
        (SIMPLIFIED, "utf-16-le", "UTF-16LE"),
        (SIMPLIFIED, "utf-16-be", "UTF-16BE"),
        (SIMPLIFIED, "utf-32", "UTF-32"),
    ],
)
@pytest.mark.parametrize("breaks", [True, False])
def test_an_encoding_is_found_wherever_the_sample_is_cut(tmp_path, text, encoding, name, breaks):
    long = rows(text, SAMPLE)
    whole = (long if breaks else long.replace("\n", " ")).encode(encoding)
    assert len(whole) > SAMPLE + 8
    for size in range(SAMPLE - 4, SAMPLE + 5):
        message = message_of(tmp_path / "train.txt", whole[:size])
        assert f":1: not UTF-8; it looks like {name}" in message, size
        assert f"iconv -f {name} " in message


@pytest.mark.parametrize("ascii_lines", [10, 3000, 20_000])
@pytest.mark.parametrize("shift", range(4))
def test_the_first_chinese_line_may_be_far_down(tmp_path, ascii_lines, shift):
    content = b"x" * shift + b"plain words\tsport\n" * ascii_lines + rows(SIMPLIFIED, SAMPLE).encode("gbk", "ignore")
    message = message_of(tmp_path / "train.txt", content)
    assert f":{ascii_lines + 1}: not UTF-8; it looks like GB18030" in message


def test_the_command_works_for_any_name(tmp_path):
    path = tmp_path / "it's $HOME.txt"
    command = message_of(path, SIMPLIFIED.encode("gb18030") * 3).partition("Convert it: ")[2]
    subprocess.run(["sh", "-c", command], check=True)
    assert [line for _, line in read_lines(path)] == [SIMPLIFIED * 3]


def archive(kind, *names):
    buffer = io.BytesIO()
    if kind == "tar":
        with tarfile.open(fileobj=buffer, mode="w") as file:
            file.addfile(tarfile.TarInfo(names[0]), io.BytesIO())
    else:
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
            for name in names:
                file.writestr(name, SIMPLIFIED)
    return buffer.getvalue()


NOISE = random.Random(3).randbytes(3000)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (archive("zip", "[Content_Types].xml", "_rels/.rels", "xl/workbook.xml"), "an Excel workbook (.xlsx)"),
        (archive("zip", "[Content_Types].xml", "_rels/.rels", "word/document.xml"), "a text processor's document"),
        (archive("zip", "train.txt"), "a ZIP archive, not text; unpack it"),
        (archive("zip"), "an empty ZIP archive"),
        (archive("tar", "train.txt"), "a tar archive"),
        (gzip.compress(SIMPLIFIED.encode()), "compressed by gzip"),
        (bz2.compress(SIMPLIFIED.encode()), "compressed by bzip2"),
        (lzma.compress(SIMPLIFIED.encode()), "compressed by xz"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + NOISE, "an Excel workbook (.xls)"),
        (b"PAR1\x15\x04" + NOISE, "a Parquet file"),
        (b"\x89PNG\r\n\x1a\n" + NOISE, "binary"),
        (NOISE, "binary"),
    ],
)
def test_a_binary_file_is_named(tmp_path, content, words):
    message = message_of(tmp_path / "train.txt", content)
    assert f"this file is {words}" in message and "iconv" not in message
    if "spreadsheet" in words or "Excel" in words or "Parquet" in words:
        assert "data/from_table.py" in message


ROW = {"id": 1, "text": SIMPLIFIED, "label": ["体育"]}


@pytest.mark.parametrize(
    "content",
    [
        "".join(json.dumps(ROW, ensure_ascii=False) + "\n" for _ in range(1000)),
        json.dumps(ROW),
        "\ufeff\n" + json.dumps(ROW) + "\r\n" + json.dumps(ROW),
        json.dumps([ROW] * 2000),
        json.dumps([ROW], indent=2),
        json.dumps(ROW, indent=4),
    ],
)
def test_json_is_named_with_the_command_that_converts_it(tmp_path, content):
    path = tmp_path / "train.txt"
    message = message_of(path, content.encode())
    assert f"{path}: this file is JSON" in message and f"data/doccano.py --doccano_file {path}" in message
    assert f"data/from_table.py --table {path}" in message


@pytest.mark.parametrize(
    "content",
    [
        "text,label\n今天下雨,天气\n球队夺冠,体育\n",
        'id,text,label\r\n1,"下雨, 刮风",天气\r\n2,"他说""好""",体育\r\n',
        "\ufeff文本,标签\n今天\t下雨,天气\n",
        '"内容","类别"\n"第一行\n第二行","体育"\n',
        '"今天下雨","天气"\n"球队, 夺冠","体育"\n"股市","财经"\n',
        "工单,客户描述,分类\n1,今天下雨,天气\n2,球队夺冠,体育\n",
        "text,label\n" + "今天下雨,天气\n" * 9000,
    ],
)
def test_csv_is_named_with_how_to_convert_it(tmp_path, content):
    path = tmp_path / "train.txt"
    for encoding in ("utf-8", "gb18030"):
        message = message_of(path, content.removeprefix("\ufeff").encode(encoding))
        assert "this file is CSV" in message and f"convert it: python data/from_table.py --table {path}" in message


@pytest.mark.parametrize(
    "content",
    [
        "",
        "\n\n",
        "今天下雨, 明天刮风\t天气\n球队, 夺冠\t体育\n",
        "a, b\nc, d\ne, f\n",  # texts to predict, with one comma each
        "label\ntext\n标签\n类别\n",  # a label file
        "text, label and id\n",  # one text
        "id,text\nwhat do these columns of my table mean\n",
        '"Yes," she said, "come in."\n"No."\n"Well, then," he said.\n',
        '"好"\n"不好"\n"一般"\n',
        '{"a": 1} 这是什么意思\n{"b": 2}\n',
        '{"a": 1}\t体育\n{"b": 2}\t财经\n',  # rows about JSON
        "[体育] 球队夺冠\n[财经] 股市\n",
        "{}\n{}\n",
        "{问题}如何退款\n",
        "PAR1 是什么\n",
        "BZh91 报错\n",
        "PK 对手\n",
        "有一个\0字符\n",
        "text\tlabel\n",
    ],
)
def test_text_is_left_alone(tmp_path, content):
    path = tmp_path / "data.txt"
    path.write_text(content, encoding="utf-8", newline="")
    assert [line + "\n" for _, line in read_lines(path)] == content.splitlines(keepends=True)


def test_latin_letters_in_utf_16_without_a_mark(tmp_path):
    message = message_of(tmp_path / "train.txt", ("the team won\tsport\n" * 9).encode("utf-16-le"))
    assert "it looks like UTF-16LE" in message


def test_what_a_pipe_yields_is_converted_in_front_of_it():
    content = rows(SIMPLIFIED, 200).encode("gbk", "ignore")
    code = "from text_cls.rows import read_lines; list(read_lines('/dev/stdin'))"
    answer = subprocess.run(command_line("-c", code), cwd=ROOT, input=content, capture_output=True)
    assert b"Convert it before it gets here: ... | iconv -f GB18030 -t UTF-8 | python ..." in answer.stderr


@pytest.mark.parametrize("end", [b"", b"\r"])
def test_line_ends_of_old_macs(tmp_path, end):
    path = tmp_path / "train.txt"
    message = message_of(path, "一\t甲\r二\t乙\r三\t丙".encode() + end)
    assert f"{path}: lines end with CR, as in files of old Macs, not with LF. Convert it: tr" in message
    subprocess.run(["sh", "-c", message.partition("Convert it: ")[2]], check=True)
    assert [line for _, line in read_lines(path)] == ["一\t甲", "二\t乙", "三\t丙"]


def test_a_pipe_is_read_once():
    content = rows(SIMPLIFIED, 200).encode("gbk", "ignore")
    code = "from text_cls.rows import read_lines; list(read_lines('/dev/stdin'))"
    answer = subprocess.run(command_line("-c", code), cwd=ROOT, input=content, capture_output=True)
    assert b"it looks like GB18030" in answer.stderr
