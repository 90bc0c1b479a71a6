"""Files that are not UTF-8 text: what they are, told by their first bytes, and how to convert them."""

import codecs
import csv
import json
import os
import re
import shlex

from text_cls.inputs import open_input
from text_cls.language import N_, tr

SAMPLE = 1 << 16  # bytes that are looked at
_ICONV = {"gb18030": "GB18030", "big5": "BIG5"}  # Python's name: iconv's

XLSX, PARQUET = N_("an Excel workbook (.xlsx)"), N_("a Parquet file")  # what text_cls.tables can read
_CONVERT = N_("convert it: python data/from_table.py --table {path}")
_AS_XLSX = N_("save it as .xlsx without a password, and convert that with data/from_table.py")
_AS_CSV = N_("write its table as CSV or Parquet, and convert that with data/from_table.py")
_UNPACK = N_("unpack it and use the text file in it")
_MAGIC = (  # first bytes, what they are the beginning of, what to do
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", N_("an Excel workbook (.xls), or an Office file with a password"), _AS_XLSX),
    (b"PAR1", PARQUET, _CONVERT),
    (b"ARROW1\0\0", N_("an Arrow file"), _AS_CSV),
    (b"Obj\x01", N_("an Avro file"), _AS_CSV),
    (b"SQLite format 3\0", N_("an SQLite database"), _AS_CSV),
    (b"PK\x05\x06", N_("an empty ZIP archive"), _UNPACK),
    (b"\x1f\x8b", N_("compressed by gzip"), _UNPACK),
    (b"BZh", N_("compressed by bzip2"), _UNPACK),
    (b"\xfd7zXZ\0", N_("compressed by xz"), _UNPACK),
    (b"\x28\xb5\x2f\xfd", N_("compressed by zstd"), _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", N_("a 7z archive"), _UNPACK),
    (b"Rar!\x1a\x07", N_("a RAR archive"), _UNPACK),
    (b"%PDF-1.", N_("a PDF document"), N_("copy its text into a text file in UTF-8")),
)
_CR_TO_LF = r"tr '\r' '\n'"
_ASCII = r"[\t\r\n -~]"
_USUAL = r"[\t\r\n -~\u2010-\u203f\u3000-\u30ff\u4e00-\u9fff\uff00-\uffef]"  # of Chinese texts
_CONTROLS = bytes([*range(9), *range(14, 27), *range(28, 32)])  # bytes that no text in any of these encodings has
_COLUMNS = set("id text texts content sentence title body data 序号 编号 文本 内容 正文 标题".split())
_LABEL_COLUMNS = set("label labels category categories class 标签 类别 分类".split())


def foreign_message(path, head, may_be_json=False):
    """What to do about a file that is not rows of text; None if it may be text, in whatever encoding.

    head: its first bytes, `SAMPLE` at most. Only strong evidence counts: a text may contain commas, quotes and braces.
    """
    if what := binary_kind(head):
        kind, remedy = (tr(message, path=shlex.quote(os.fspath(path))) for message in what)
        return tr("{path}: this file is {kind}, not text; {remedy}", path=path, kind=kind, remedy=remedy)
    if head.count(0) * 10 > len(head) and utf_16_or_32(head):  # Latin letters in UTF-16 are also valid UTF-8
        return encoding_message(path, 1, head, head)
    lines = _whole_lines(head.removeprefix(codecs.BOM_UTF8))
    if lines is None:
        encoding = _guess(head)
        return csv_message(path) if encoding and _is_csv(_whole_lines(head, encoding)) else None
    if not may_be_json and is_json(lines):
        name = shlex.quote(os.fspath(path))
        return tr(
            "{path}: this file is JSON, not rows of text. Convert an export of doccano or Label Studio: python "
            "data/doccano.py --doccano_file {name}; a table of your own: python data/from_table.py --table {name}",
            path=path,
            name=name,
        )
    if _is_csv(lines):
        return csv_message(path)
    if b"\n" not in head and head.rstrip(b"\r").count(b"\r") > 1:
        return tr(
            "{path}: lines end with CR, as in files of old Macs, not with LF. {conversion}",
            path=path,
            conversion=_conversion(path, _CR_TO_LF),
        )
    return None


def csv_message(path):
    """What to do about a file of comma-separated columns."""
    remedy = tr(_CONVERT, path=shlex.quote(os.fspath(path)))
    return tr("{path}: this file is CSV, but a row is text<TAB>label,label; {remedy}", path=path, remedy=remedy)


def _conversion(path, program):
    """The end of a message: the command that converts a file in place or, in front of a pipe, what it yields."""
    if os.path.exists(path) and not os.path.isfile(path):
        return tr("Convert it before it gets here: ... | {program} | python ...", program=program)
    old, new = shlex.quote(os.fspath(path)), shlex.quote(f"{os.fspath(path)}.new")
    return tr("Convert it: {program} < {old} > {new} && mv {new} {old}", program=program, old=old, new=new)


def binary_kind(head):
    """(what a binary file is, what to do), told by its first bytes; None if it may be text.

    Both are messages to translate; the second has {path} for the path in a command line.
    """
    if head.startswith(b"PK\x03\x04"):
        names = b"".join(b"\n" + name for name in _names_in_zip(head))
        if b"\nxl/" in names:
            return XLSX, _CONVERT
        if b"opendocument.spreadsheet" in head[:120]:
            return N_("a spreadsheet (.ods)"), _AS_XLSX
        if b"\nword/" in names or b"opendocument.text" in head[:120]:
            return N_("a text processor's document"), N_("save it as plain text in UTF-8")
        return N_("a ZIP archive"), _UNPACK
    for magic, kind, remedy in _MAGIC:
        if head.startswith(magic) and not (magic.isalnum() and _is_utf8(head)):  # a text may begin with PAR1
            return kind, remedy
    if head[257:262] == b"ustar" and b"\0" in head[:257]:
        return N_("a tar archive"), _UNPACK
    controls = len(head) - len(head.translate(None, delete=_CONTROLS))
    if controls * 100 > len(head) and not _is_utf8(head) and not utf_16_or_32(head):
        return N_("binary"), N_("name a text file in UTF-8")
    return None


def _names_in_zip(head):
    for match in re.finditer(rb"PK\x03\x04.{22}(..)..", head, re.DOTALL):
        yield head[match.end() : match.end() + int.from_bytes(match[1], "little")]


def utf_16_or_32(head):
    """iconv's name of the encoding if these first bytes are UTF-16 or UTF-32, else None."""
    for mark, name in (
        (codecs.BOM_UTF32_LE, "UTF-32"),
        (codecs.BOM_UTF32_BE, "UTF-32"),
        (codecs.BOM_UTF16_LE, "UTF-16"),
        (codecs.BOM_UTF16_BE, "UTF-16"),
    ):
        if head.startswith(mark):
            return name
    # Without a mark, what tells UTF-16 from other bytes are the zeros of line breaks, tabs, digits and Latin letters.
    for name in ("UTF-16LE", "UTF-16BE") if head.count(0) * 400 > len(head) else ():
        text = _decoded(head, name)
        ascii_share, usual_share = (len(re.findall(of, text or "")) / len(text or "x") for of in (_ASCII, _USUAL))
        if ascii_share > 0.005 and usual_share > 0.9:
            return name
    return None


def encoding_message(path, number, sample, head=None):
    """What to do about line `number`, which is not UTF-8.

    Args:
        sample: bytes from the beginning of a line.
        head: the first bytes of the file; None if lines before this one are UTF-8, so that only the line is wrong.
    """
    encoding = (head and utf_16_or_32(head)) or _guess(sample)
    if encoding is None:
        return tr(
            "{path}:{number}: not UTF-8, nor any other known encoding; save the file as UTF-8", path=path, number=number
        )
    looks = tr(
        "{path}:{number}: not UTF-8; it looks like {encoding}{other_name}",
        path=path,
        number=number,
        encoding=encoding,
        other_name=" (GBK)" if encoding == "GB18030" else "",
    )
    if head is None:
        return tr(
            "{looks}, while the lines before it are UTF-8; retype the line, or convert the file it came from",
            looks=looks,
        )
    return f"{looks}. {_conversion(path, f'iconv -f {encoding} -t UTF-8')}"


def find_encoding(path):
    """Python's name of the encoding of a text file, which may be ASCII for long; None if it is unknown.

    Raises:
        OSError: the file cannot be read.
    """
    with open_input(path) as file:
        sample = file.read(SAMPLE)
        if encoding := utf_16_or_32(sample):
            return encoding
        if sample.startswith(codecs.BOM_UTF8):
            return "UTF-8-SIG"
        while sample.isascii():
            sample = file.read(SAMPLE)
            if not sample:
                return "UTF-8"
        sample += file.read(SAMPLE)  # the first other character may be at its end
    return "UTF-8" if _is_utf8(sample) else _guess(sample)


def _guess(sample):
    """iconv's name of the most likely encoding of a sample, whose last character may be cut; None if there is none."""
    from charset_normalizer import from_bytes

    found = []
    for encoding in _ICONV:
        text = _decoded(sample, encoding)
        if text:
            found += from_bytes(text.encode(encoding), cp_isolation=[encoding])
    return _ICONV[min(found).encoding] if found else None


def _decoded(sample, encoding):
    """The whole characters of a sample; None if it is not in this encoding."""
    try:
        return codecs.getincrementaldecoder(encoding)().decode(sample)
    except UnicodeDecodeError:
        return None


def _is_utf8(head):
    return _decoded(head, "utf-8") is not None


def _whole_lines(head, encoding="utf-8"):
    """The lines of the first bytes that are not blank; the last only if it is the only one. None: another encoding."""
    text = _decoded(head, encoding)
    if text is None:
        return None
    lines = [line.rstrip("\r") for line in text.split("\n")]
    if len(head) >= SAMPLE - 3 and len(lines) > 1:
        lines.pop()  # it may be cut
    return [line for line in lines if line.strip()]


def is_json(lines):
    """True if each of the first lines is a JSON object, or the file begins as an array of objects or one object."""
    start = "\n".join(lines[:3])
    if re.match(r'\s*\[\s*\{\s*"[^"\n]*"\s*:', start) or re.match(r'\s*\{\s*\n\s*"[^"\n]*"\s*:', start):
        return True
    try:
        return bool(lines) and all(line.lstrip().startswith("{") and json.loads(line) for line in lines[:20])
    except (ValueError, RecursionError):
        return False


def _is_csv(lines):
    """True if the first line names columns and the next ones have as many, or if three lines are nothing but quoted."""
    if not lines or "\t" in lines[0]:
        return False
    try:
        records = [record for record in csv.reader(lines[:50]) if record]
    except csv.Error:
        return False
    names = {name.strip().lower() for name in records[0]}
    if (
        len(records[0]) > 1
        and names & _LABEL_COLUMNS
        and (names & _COLUMNS or names <= _LABEL_COLUMNS or len(records[0]) > 2)
    ):
        same = sum(len(record) == len(records[0]) for record in records[1:])
        return len(records) > 1 and same >= 0.9 * (len(records) - 1)
    quoted = [re.fullmatch(r'"(?:[^"]|"")*"(?:,"(?:[^"]|"")*")+', line.strip()) for line in lines[:50]]
    return len(lines) > 2 and all(quoted) and len({len(record) for record in records}) == 1
