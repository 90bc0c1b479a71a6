"""Texts that are longer than the model reads: cut, read at both ends, or read whole in windows.

A window is a stretch of a text, read as if it were a text of its own. So every tokenizer and every consumer of a bundle
has the same windows, and their places are places in the text. The logits of a text's windows are pooled for each label;
thresholds and hierarchy then apply to the text.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from text_cls.batching import Encoded
from text_cls.language import tr
from text_cls.schema import fields, one_of, or_null, whole

CUT, HEAD_TAIL, WINDOWS = MODES = ("cut", "head_tail", "windows")
MAX, LSE = POOLINGS = ("max", "lse")
MOST = 256  # windows of a text
WHOLE = 1 << 30  # tokens: more than any text has
TOGETHER = 1 << 18  # characters tokenised together: of each token, the library tokenizers holds 140 bytes for a while
# Of the tokens that are kept: 128 at the beginning and 382 at the end were best in Sun et al. 2019, arXiv:1905.05583.
HEAD = 0.25
FULL = 0.75  # a window that is at least this full ends with a sentence
BEGINNING = 8  # times as many characters as a window has tokens: most texts of so many characters are longer
TIE = 1e-4  # of logits
AT_ONCE = 256  # texts that are split together, to limit memory
# Ends of sentences, with the quotes and brackets that close them; then ends of clauses.
_END = re.compile(r"(?:[。！？；!?;…\n]+|\.(?=\s))[”’」』）)\]】\"']*\s*|(?:[，、：]|[,:](?=\s))\s*")
_OF_CLAUSE = frozenset("，、：,:")


@dataclass(frozen=True)
class LongTexts:
    """How texts of more than `max_seq_length` tokens are read.

    mode: "cut" reads their beginning, "head_tail" a quarter of the tokens at the beginning and the rest at the end,
    "windows" all of them. The others are for windows. stride: tokens from the beginning of a window to that of the
    next; None for windows that do not overlap. max_windows: of a text; what follows is not read. pooling: "max", the
    highest logit; "lse", log(sum(exp(logits))), to which all windows contribute.
    """

    mode: str = CUT
    stride: int | None = None
    max_windows: int = MOST
    pooling: str = MAX

    def record(self) -> dict[str, Any]:
        """What a manifest says, as `LongTexts(**record)` reads it."""
        return asdict(self)


RECORD = fields(
    {"mode": one_of(*MODES), "stride": or_null(whole(1)), "max_windows": whole(1), "pooling": one_of(*POOLINGS)},
    others=False,
)


@dataclass
class Windows:
    """The windows of many texts, and their tokens.

    tokens: `Encoded`, a row for each window, text after text. offsets: int64 [texts + 1], where the windows of each
    text begin. spans: int64 [windows, 2], each window's first character in its text, and the one after its last.
    truncated: number of texts that are not read to their end. pooling: of `LongTexts`.
    """

    tokens: Encoded
    offsets: np.ndarray
    spans: np.ndarray
    truncated: int
    pooling: str

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each text, in all its windows: int64 [texts]."""
        return np.diff(self.tokens.offsets[self.offsets])

    @property
    def counts(self) -> np.ndarray:
        """Windows of each text: int64 [texts]."""
        return np.diff(self.offsets)

    def of(self, texts: np.ndarray) -> np.ndarray:
        """Numbers of the windows of some texts, text after text."""
        return np.concatenate([np.arange(self.offsets[i], self.offsets[i + 1]) for i in texts])


# ----------------------------------------------------------------------------------------------------------- splitting


def make_windows(
    texts: Sequence[str],
    count: Callable[[list[str]], Sequence[int]],
    room: int,
    how: LongTexts,
    encode: Callable[[list[str]], Encoded],
) -> Windows:
    """The windows of texts.

    A window that is full enough ends with a sentence, else where a clause ends, else anywhere but, if possible, not in
    a word.

    Args:
        count: function of texts that returns their numbers of tokens, without special ones.
        room: most tokens of a window, without special ones.
        encode: function of texts that returns their tokens, special ones included, of each text at least `room + 1`, if
            it has so many. A window that has them is divided again.
    """
    spans, counts, parts, truncated, longest = [], [0], [], 0, room + int(encode([""]).lengths[0])
    for start in range(0, max(1, len(texts)), AT_ONCE):
        some = [texts[i] for i in range(start, min(start + AT_ONCE, len(texts)))]
        found = split_texts(some, count, room, how.stride)
        while True:
            read = [of_text[: how.max_windows] for of_text in found]
            tokens = encode([text[first:end] for text, of_text in zip(some, read) for first, end in of_text])
            if not _divide_too_long(some, found, read, tokens.lengths > longest):
                break
        parts.append(tokens)
        spans += [span for of_text in read for span in of_text]
        counts += map(len, read)
        truncated += sum(len(of_text) > how.max_windows for of_text in found)
    offsets = np.cumsum(counts, dtype=np.int64)
    return Windows(joined(parts), offsets, np.array(spans, dtype=np.int64).reshape(-1, 2), truncated, how.pooling)


def split_texts(
    texts: Sequence[str], count: Callable[[list[str]], Sequence[int]], room: int, stride: int | None = None
) -> list[list[tuple[int, int]]]:
    """(start, end) of the windows of each text, at least one. Their pieces have at most `room` tokens together.

    count, room: as in `make_windows`. stride: of `LongTexts`.
    """
    windows = [[(0, len(text))] for text in texts]
    long = _longer(texts, count, room)
    for i, pieces in zip(long, _pieces([texts[i] for i in long], count, room)):
        windows[i] = _packed(pieces, room, stride)
    return windows


def _longer(texts, count, room):
    """Numbers of the texts of more than `room` tokens. In most long texts, their beginning alone has them."""
    sizes = [*count([text[: BEGINNING * room] for text in texts])]
    whole = [i for i, text in enumerate(texts) if len(text) > BEGINNING * room and sizes[i] <= room]
    for i, size in zip(whole, count([texts[i] for i in whole])):
        sizes[i] = size
    return [i for i, size in enumerate(sizes) if size > room]


def _divide_too_long(texts, windows, read, too_long):
    """Halves windows with more tokens than their pieces together, as some tokenizers make. Returns whether there are.

    Args:
        windows: of `split_texts`; it is changed. read: those that were encoded. too_long: bool array over these.
    """
    places = [(i, k) for i, of_text in enumerate(read) for k in range(len(of_text))]
    places = [(i, k) for (i, k), is_long in zip(places, too_long) if is_long and np.diff(read[i][k]) > 1]
    for i, k in reversed(places):
        start, end = windows[i][k]
        [middle] = _places(texts[i], start, end, 2)
        windows[i][k : k + 1] = [(start, middle), (middle, end)]
    return bool(places)


def _pieces(texts, count, room):
    """[(start, end, tokens, whether it ends a sentence)] of each text, each of at most `room` tokens."""
    pieces = []  # [text, start, end, whether it ends a sentence, tokens]
    for i, text in enumerate(texts):
        start = 0
        for end in _END.finditer(text):
            pieces.append([i, start, end.end(), end[0][0] not in _OF_CLAUSE, None])
            start = end.end()
        if start < len(text):
            pieces.append([i, start, len(text), True, None])
    while new := [piece for piece in pieces if piece[4] is None]:
        for piece, size in zip(new, count([texts[i][start:end] for i, start, end, *_ in new])):
            piece[4] = size
        pieces = [part for piece in pieces for part in _divided(texts, piece, room)]
    found = [[] for _ in texts]
    for i, start, end, closes, size in pieces:
        found[i].append((start, end, size, closes))
    return found


def _divided(texts, piece, room):
    """The piece, or if it has too many tokens, parts of it, which must be counted."""
    i, start, end, closes, size = piece
    if size <= room or end - start < 2:
        return [piece]
    places = _places(texts[i], start, end, min(-(-size // room), end - start))
    return [[i, a, b, closes and b == end, None] for a, b in zip([start, *places], [*places, end])]


def _places(text, start, end, parts):
    """Where to divide a stretch of a text into parts of about the same length, if possible behind spaces."""
    places, before = [], start
    for k in range(1, parts):
        place = start + (end - start) * k // parts
        space = text.rfind(" ", (before + place) // 2, place)
        before = space + 1 if space > before else place
        places.append(before)
    return places


def _packed(pieces, room, stride):
    """(start, end) of windows made of consecutive pieces of a text."""
    sums = np.cumsum([0, *(size for _, _, size, _ in pieces)])
    windows, first = [], 0
    while True:
        last = max(first + 1, int(np.searchsorted(sums, sums[first] + room, side="right")) - 1)
        if last < len(pieces):
            ends = (k for k in range(last, first, -1) if pieces[k - 1][3] and sums[k] - sums[first] >= FULL * room)
            last = next(ends, last)
        windows.append((pieces[first][0], pieces[last - 1][1]))
        if last == len(pieces):
            return windows
        following = last if stride is None else int(np.searchsorted(sums, sums[first] + stride))
        first = max(first + 1, min(last, following))


def texts_in_parts(texts: Iterable[str], characters: int) -> Iterator[list[str]]:
    """Yields lists of consecutive texts, of at least this many characters, and less than one text more."""
    part, size = [], 0
    for text in texts:
        part.append(text)
        size += len(text)
        if size >= characters:
            yield part
            part, size = [], 0
    if part:
        yield part


def encode_as(
    how: LongTexts,
    tokenizer: Any,
    pack: Callable[[list[np.ndarray]], Encoded],
    texts: Sequence[str],
    max_seq_length: int,
) -> Encoded | Windows:
    """The tokens of texts that a bundle's model reads: `Windows`, or without windows `Encoded`, a row for each text.

    Args:
        tokenizer: what `tokenization.load_tokenizer` returns.
        pack: function of rows of token ids that returns their `Encoded`.
        max_seq_length: most tokens of a row.
    """
    if how.mode == CUT:
        return pack(tokenizer.encode(texts, max_seq_length))

    def rows(some, most):
        return (row for part in texts_in_parts(some, TOGETHER) for row in tokenizer.encode(part, most))

    def count(some):
        return [len(row) - tokenizer.fixed for row in rows(some, WHOLE)]

    if how.mode == HEAD_TAIL:
        return keep_ends(pack([*rows(texts, WHOLE)]), max_seq_length)
    room = max_seq_length - tokenizer.fixed
    return make_windows(texts, count, room, how, lambda some: pack([*rows(some, max_seq_length + 1)]))


def joined(parts: Sequence[Encoded]) -> Encoded:
    """The rows of several `Encoded`, one after another."""
    first = parts[0]
    return Encoded(
        {name: np.concatenate([part.columns[name] for part in parts]) for name in first.columns},
        np.cumsum([0, *(length for part in parts for length in part.lengths)], dtype=np.int64),
        first.padding,
        first.pad_left,
        first.with_mask,
        sum(part.truncated for part in parts),
    )


def joined_windows(parts: Sequence[Windows]) -> Windows:
    """The texts of several `Windows`, one after another."""
    counts = np.concatenate([part.counts for part in parts])
    return Windows(
        joined([part.tokens for part in parts]),
        np.cumsum([0, *counts], dtype=np.int64),
        np.concatenate([part.spans for part in parts]),
        sum(part.truncated for part in parts),
        parts[0].pooling,
    )


def keep_ends(tokens: Encoded, max_length: int) -> Encoded:
    """Rows of at most `max_length` tokens: of a longer one, a quarter from its beginning, the rest from its end."""
    lengths, head = tokens.lengths, 1 + int(HEAD * (max_length - 2))
    excess = np.maximum(0, lengths - max_length)
    offsets = np.cumsum([0, *(lengths - excess)], dtype=np.int64)
    place = np.arange(offsets[-1]) - np.repeat(offsets[:-1], np.diff(offsets))  # in its row
    source = np.repeat(tokens.offsets[:-1], np.diff(offsets)) + place
    source += np.where(place >= head, np.repeat(excess, np.diff(offsets)), 0)
    columns = {name: values[source] for name, values in tokens.columns.items()}
    cut = int((excess > 0).sum())
    return Encoded(columns, offsets, tokens.padding, tokens.pad_left, tokens.with_mask, cut)


# ------------------------------------------------------------------------------------------------------------- pooling


def pool(logits: np.ndarray, counts: np.ndarray, pooling: str) -> np.ndarray:
    """The logits of texts: float32 [texts, labels]. Those of a text with one window are that window's.

    Args:
        logits: float32 [windows, labels], text after text.
        counts: int [texts], windows of each text, at least one.
        pooling: one of `POOLINGS`.
    """
    if len(logits) == len(counts):
        return logits
    starts = np.cumsum([0, *counts[:-1]])
    highest = np.maximum.reduceat(logits, starts, axis=0)
    if pooling == MAX:
        return highest
    return highest + np.log(np.add.reduceat(np.exp(logits - np.repeat(highest, counts, axis=0)), starts, axis=0))


def shares(logits: np.ndarray, pooled: np.ndarray, counts: np.ndarray, pooling: str) -> np.ndarray:
    """How much each window's logit changes that of its text, the derivative of `pool`: float32 [windows, labels].

    Args:
        pooled: what `pool` returned for the other arguments.
    """
    whole = np.repeat(pooled, counts, axis=0)
    if pooling == LSE:
        return np.exp(logits - whole)
    highest = (logits == whole).astype(np.float32)  # equal windows share it
    return highest / np.repeat(np.add.reduceat(highest, np.cumsum([0, *counts[:-1]]), axis=0), counts, axis=0)


def deciding_windows(logits: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Number, in its text, of the window with the highest logit of each label: int64 [texts, labels].

    Of windows that differ by less than `TIE`, it is the first, since the rounding of equal ones depends on their batch.

    logits, counts: as in `pool`.
    """
    parts = np.split(logits, np.cumsum(counts)[:-1])
    return np.array([(part >= part.max(axis=0) - TIE).argmax(axis=0) for part in parts])


def passages(windows: Windows, logits: np.ndarray, first: int = 0) -> np.ndarray:
    """The deciding window of each label, as its (start, end) in the text: int64 [texts, labels, 2].

    logits: as in `pool`, of the windows of consecutive texts, the first of which has the number `first`.
    """
    last = int(np.searchsorted(windows.offsets, windows.offsets[first] + len(logits)))
    best = deciding_windows(logits, windows.counts[first:last])
    return windows.spans[windows.offsets[first:last, None] + best]


# ------------------------------------------------------------------------------------------------------------ messages


def description(how: LongTexts) -> str | None:
    """What to log about how a bundle reads long texts; None if it cuts them."""
    most = tr(
        "Longer texts are read in windows of that size, at most {max_windows} of a text", max_windows=how.max_windows
    )
    return {HEAD_TAIL: tr("Of longer texts, the beginning and the end are read"), WINDOWS: most}.get(how.mode)


def evidence_problem(how: LongTexts) -> str | None:
    """Why a model has no passages to show, or None if it has."""
    if how.mode == WINDOWS:
        return None
    return tr(
        "the model reads no windows of long texts, and so has no evidence; train one with train.py --long_texts windows"
    )


def unread_text(texts: int, how: LongTexts) -> str:
    """What to log about the number of texts that were not read to their end."""
    return tr(
        "{texts} texts have more windows than the {max_windows} that the model reads; their ends were not read. Train "
        "with a larger --max_windows to read more",
        texts=texts,
        max_windows=how.max_windows,
    )
