"""Token ids of texts, the same as those of PaddleNLP's tokenizers, without PaddleNLP.

`load_tokenizer(folder)` reads the files that `save_pretrained` wrote. WordPiece runs in the Rust library `tokenizers`.
What PaddleNLP does to the characters before that is a table here, since Rust's own BERT normaliser differs: it does not
split off symbols, and uses another version of Unicode than Python. Hugging Face's tokenizer.json runs in Rust as it is.
"""

import os
import re
import sys
import unicodedata

import numpy as np

from text_cls.language import N_, tr
from text_cls.schema import FLAG, TEXT, fields, list_of, one_of, or_null, read_json, whole

WORDPIECE = ("ErnieTokenizer", "BertTokenizer")
SENTENCEPIECE = ("ErnieMTokenizer",)
FROM_JSON = "PreTrainedTokenizerFast"  # transformers' name for a tokenizer that is all in tokenizer.json
SPECIAL_NAMES = ("unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
REMEDY = N_("save the tokenizer again, or copy all of the folder")
_TEXTS = dict.fromkeys(("tokenizer_class", *SPECIAL_NAMES), or_null(TEXT))
CONFIG = fields({}, {**_TEXTS, "do_lower_case": or_null(FLAG), "split_symbols": FLAG})
IDS = list_of(whole(0, 2**31 - 1))
TEMPLATE = fields({"before": IDS, "after": IDS, "truncate_mode": one_of("head", "tail")})
CHARACTERS_FILE = "characters.json"
CHARACTERS = fields({"vocab_size": whole(1), "longest_tokens": whole(1), "longest_text": whole(1)})
DEFAULTS = {name: f"[{name[:-6].upper()}]" for name in SPECIAL_NAMES}


def load_tokenizer(folder):
    """The tokenizer of a folder with tokenizer_config.json. Raises ValueError if its kind is not supported."""
    config = read_json(os.path.join(folder, "tokenizer_config.json"), CONFIG, tr(REMEDY))
    kind = config.get("tokenizer_class")
    changed = [name for name in ("never_split", "strip_accents") if config.get(name)]
    changed += [name for name in ("do_basic_tokenize", "tokenize_chinese_chars") if not config.get(name, True)]
    if os.path.exists(os.path.join(folder, "added_tokens.json")):
        changed.append("added_tokens.json")
    classes = {**dict.fromkeys(WORDPIECE, WordPiece), **dict.fromkeys(SENTENCEPIECE, SentencePiece)}
    classes[FROM_JSON] = lambda folder, config: TokenizerJson(open_tokenizer_json(folder), config)
    classes["CodePoints"] = lambda folder, config: CodePoints()
    if kind not in classes or changed:
        what = f"{kind} with {', '.join(changed)}" if changed else kind
        raise ValueError(
            tr("{what} is not supported; use a model with {classes}", what=what, classes=", ".join(classes))
        )
    tokenizer = classes[kind](folder, config)
    template, characters = (os.path.join(folder, name) for name in ("template.json", CHARACTERS_FILE))
    if os.path.exists(template):
        tokenizer = Prompted(tokenizer, read_json(template, TEMPLATE, tr(REMEDY)))
    if os.path.exists(characters):
        tokenizer = TokensAndCharacters(tokenizer, read_json(characters, CHARACTERS, tr(REMEDY)))
    return tokenizer


def _read_vocabulary(folder):
    with open(os.path.join(folder, "vocab.txt"), encoding="utf-8") as file:
        return {line.rstrip("\n"): number for number, line in enumerate(file)}


class Tokenizer:
    """What both kinds share: the vocabulary, and the special tokens, at which a text is split."""

    fixed = 2  # tokens of a row besides those of its text

    def __init__(self, folder, config):
        self.vocabulary = _read_vocabulary(folder)
        self.lower_case = config.get("do_lower_case", True)
        self.specials = {name: config.get(name) or DEFAULTS[name] for name in SPECIAL_NAMES}
        needed = [self.specials[name] for name in ("cls_token", "sep_token", "pad_token", "unk_token")]
        missing = [token for token in needed if token not in self.vocabulary]
        if missing:
            raise ValueError(tr("vocab.txt has no {missing}", missing=", ".join(missing)))
        self.cls_id, self.sep_id, self.pad_id, self.unk_id = (self.vocabulary[token] for token in needed)
        self._special = re.compile("(" + "|".join(re.escape(token) for token in self.specials.values()) + ")")


class WordPiece(Tokenizer):
    """BERT's WordPiece (Devlin et al. 2019, https://arxiv.org/abs/1810.04805) with ERNIE's splitting of characters."""

    def __init__(self, folder, config):
        import tokenizers

        super().__init__(folder, config)
        # False for the vocabulary of a Hugging Face folder, see neural/hugging_face.py
        self.split_symbols = config.get("split_symbols", True)
        self.table = _CharacterTable(self.lower_case, self.split_symbols)
        model = tokenizers.models.WordPiece(
            self.vocabulary, unk_token=self.specials["unk_token"], max_input_chars_per_word=100
        )
        self._rust = tokenizers.Tokenizer(model)
        self._rust.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
        self._rust.add_special_tokens([token for token in self.specials.values() if token in self.vocabulary])
        cls, sep = self.specials["cls_token"], self.specials["sep_token"]
        self._rust.post_processor = tokenizers.processors.TemplateProcessing(
            single=f"{cls} $A {sep}", special_tokens=[(cls, self.cls_id), (sep, self.sep_id)]
        )

    def encode(self, texts, max_length):
        """Ids of each text, special tokens included, cut at `max_length`: a list of int32 arrays."""
        return _rust_encode(self._rust, [self._normal(text, max_length) for text in texts], max_length, self.sep_id)

    def _normal(self, text, max_length):
        """The text, or enough of its beginning to know the first `max_length` tokens, with spaces between words."""
        table, special = self.table, self._special
        if special.search(text) is not None:
            return " ".join(part if i % 2 else part.translate(table) for i, part in enumerate(special.split(text)))
        size = 4 * max_length
        while size < len(text):
            normal = text[:size].translate(table)
            if len(normal.split(None, max_length)) > max_length:  # whole words, each of at least one token
                return normal
            size *= 4
        return text.translate(table)


def _rust_encode(rust, texts, max_length, sep_id):
    """What `encode` of the two classes that run in Rust returns. sep_id: the last id of a row, also if it is cut."""
    rows = [np.array(one.ids, dtype=np.int32) for one in rust.encode_batch_fast(texts)]
    # Not cut by Rust: its maximum belongs to the tokenizer, which threads with different maxima share.
    for row in rows:
        if len(row) > max_length:
            row[max_length - 1] = sep_id
    return [row[:max_length] for row in rows]


class _CharacterTable(dict):
    """For str.translate: what PaddleNLP's BasicTokenizer makes of each character, with spaces where it splits.

    With `lower_case` it lowers and decomposes characters (NFD, accents dropped). It drops control characters, and puts
    spaces around each Chinese character, punctuation mark and, with `split_symbols`, symbol. Entries are made when they
    are first needed.
    """

    def __init__(self, lower_case, split_symbols=True):
        super().__init__()
        self.lower_case, self._split_symbols = lower_case, split_symbols

    def __missing__(self, code):
        text = chr(code)
        made = "".join(map(self._replace, text.lower() if self.lower_case else text))
        if len(self) < 1 << 16:  # untrusted texts must not make it grow without limit
            self[code] = made
        return made

    def _replace(self, char):
        if char in "\t\n\r" or char.isspace() and not unicodedata.category(char).startswith("C"):
            return " "
        if char == "\ufffd" or unicodedata.category(char).startswith("C"):
            return ""
        made = char
        if self.lower_case:
            made = "".join(c for c in unicodedata.normalize("NFD", char.lower()) if unicodedata.category(c) != "Mn")
        made = "".join(f" {c} " if _stands_alone(c, self._split_symbols) else c for c in made)
        return f" {made} " if _is_chinese(ord(char)) else made


def _stands_alone(char, symbols):
    ascii_mark = char.isascii() and char.isprintable() and not char.isalnum() and char != " "
    if ascii_mark or unicodedata.category(char).startswith("P"):
        return True
    # The last ones are not symbols in Unicode, but they are for PaddleNLP.
    is_symbol = unicodedata.category(char).startswith("S") or char in "\u00ad\u00b2\u00ba\u3007\u00b5\u00d8\u014b\u01b1"
    return symbols and is_symbol


def _is_chinese(code):
    blocks = (
        (0x4E00, 0x9FFF),
        (0x3400, 0x4DBF),
        (0x20000, 0x2A6DF),
        (0x2A700, 0x2B73F),
        (0x2B740, 0x2B81F),
        (0x2B820, 0x2CEAF),
        (0xF900, 0xFAFF),
        (0x2F800, 0x2FA1F),
    )
    return any(first <= code <= last for first, last in blocks)


class SentencePiece(Tokenizer):
    """ERNIE-M's SentencePiece; its pieces are split again at Chinese characters, marks and the ends of numbers."""

    MARKS = frozenset(",;:.?!~，；：。？！《》【】")
    UNDERLINE = "▁"

    def __init__(self, folder, config):
        import sentencepiece

        super().__init__(folder, config)
        self._model = sentencepiece.SentencePieceProcessor()
        self._model.Load(os.path.join(folder, "sentencepiece.bpe.model"))

    def encode(self, texts, max_length):
        """Ids of each text, special tokens included, cut at `max_length`: a list of int32 arrays."""
        rows = []
        for text in texts:
            ids = []
            parts = self._special.split(text)
            for i, part in enumerate(parts):
                if i % 2:
                    ids.append(self.vocabulary.get(part, self.unk_id))
                    continue
                part = part.lstrip() if i else part  # spaces beside a special token belong to it
                part = part.rstrip() if i + 1 < len(parts) else part
                # As PaddleNLP: each character by itself, so that a sigma at the end of a word stays "σ".
                part = "".join(map(str.lower, part)) if self.lower_case else part
                for piece in self._model.EncodeAsPieces(part):
                    ids += (self.vocabulary.get(token, self.unk_id) for token in self._split(piece))
            rows.append(np.array([self.cls_id, *ids[: max_length - 2], self.sep_id], dtype=np.int32))
        return rows

    def _split(self, piece):
        start = 0
        for i, char in enumerate(piece):
            alone = "\u4e00" <= char <= "\u9fff" or char in self.MARKS
            turns = i > 0 and char != self.UNDERLINE and char.isdigit() != piece[i - 1].isdigit()
            if alone or turns:
                if i > start and piece[start:i] != self.UNDERLINE:
                    yield piece[start:i]
                start = i
            if alone:
                yield char
                start = i + 1
        if start < len(piece) and piece != self.UNDERLINE:
            yield piece[start:]


def open_tokenizer_json(folder):
    """The tokenizer of Hugging Face's library `tokenizers` in a folder. Raises ValueError if the file is damaged."""
    import tokenizers

    path = os.path.join(folder, "tokenizer.json")
    try:
        return tokenizers.Tokenizer.from_file(path)
    except Exception as error:  # the only class that Rust raises
        raise ValueError(
            tr(
                "{path}: {error}; {remedy}, or upgrade the package tokenizers",
                path=path,
                error=error,
                remedy=tr(REMEDY),
            )
        ) from error


class TokenizerJson:
    """What a tokenizer.json describes, as transformers reads it: XLM-R's SentencePiece, or WordPiece with any settings.

    rust: the tokenizer of the library `tokenizers`; it is changed. config: the texts of the special tokens. Raises
    ValueError if it adds other tokens to a text than one before and one after it.
    """

    fixed = 2

    def __init__(self, rust, config):
        rust.no_truncation()
        rust.no_padding()
        self._rust, self.vocabulary = rust, rust.get_vocab()
        self.specials = {name: config.get(name) for name in SPECIAL_NAMES}
        missing = [name for name in ("pad_token", "unk_token") if self.specials[name] not in self.vocabulary]
        if missing:
            raise ValueError(tr("tokenizer.json has no {missing}", missing=" and no ".join(missing)))
        if rust.num_special_tokens_to_add(is_pair=False) != self.fixed:
            raise ValueError(tr("tokenizer.json does not add one token before a text and one after it"))
        self.pad_id, self.unk_id = (self.vocabulary[self.specials[name]] for name in ("pad_token", "unk_token"))
        self.cls_id, *_, self.sep_id = rust.encode("").ids

    def encode(self, texts, max_length):
        """Ids of each text, special tokens included, cut at `max_length`: a list of int32 arrays."""
        return _rust_encode(self._rust, texts, max_length, self.sep_id)


class CodePoints:
    """The characters of a text as numbers, for a linear model: the code point + 2. 0 is padding, 1 the end of a row.

    Before, as scikit-learn's TfidfVectorizer(analyzer="char") does, letters become small and several spaces one.
    """

    fixed, pad_id, end_id, size = 1, 0, 1, sys.maxunicode + 3
    _spaces = re.compile(r"\s\s+")

    def encode(self, texts, max_length):
        """Ids of each text, the end included, cut at `max_length`: a list of int32 arrays."""
        return self.encode_exactly([self._spaces.sub(" ", text.lower())[: max_length - 1] for text in texts])

    def encode_exactly(self, texts):
        """Ids of each text as it is, the end included: a list of int32 arrays."""
        codes = (np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4") for text in texts)
        return [np.append(row + np.uint32(2), np.uint32(self.end_id)).astype(np.int32) for row in codes]


class Prompted:
    """Puts the tokens of a text between those of a prompt (see few-shot/).

    template: the content of `template.json`. before, after: ids, special tokens included. truncate_mode: of a text that
    is too long, "tail" cuts the end, "head" the beginning.
    """

    def __init__(self, tokenizer, template):
        self._tokenizer, self.pad_id, self.unk_id = tokenizer, tokenizer.pad_id, tokenizer.unk_id
        self._before, self._after = (np.array(template[name], dtype=np.int32) for name in ("before", "after"))
        self._from_end = template["truncate_mode"] == "head"
        self._mask_id = tokenizer.vocabulary.get(tokenizer.specials["mask_token"])
        self.fixed = len(self._before) + len(self._after)

    def encode(self, texts, max_length):
        """Ids of each row, its text cut so that the row has `max_length` tokens: a list of int32 arrays."""
        room, rows = max(0, max_length - self.fixed), []
        for row in self._tokenizer.encode(texts, 1 << 30 if self._from_end else room + 2):
            text = row[1:-1]
            text = text[max(0, len(text) - room) :] if self._from_end else text
            text = np.where(text == self._mask_id, self.unk_id, text)  # as in training: only the prompt has masks
            rows.append(np.concatenate([self._before, text, self._after], dtype=np.int32))
        return rows


class TokensAndCharacters:
    """Rows for a neural and a linear model in one graph: the tokens of a text, then its `CodePoints`, moved above them.

    settings: the content of `characters.json`: the number of the tokens' ids, the most tokens of a row, and characters.
    """

    def __init__(self, tokenizer, settings):
        self._tokenizer, self._characters, self._first = tokenizer, CodePoints(), settings["vocab_size"]
        self.longest, self._longest_text = settings["longest_tokens"], settings["longest_text"]
        self.fixed, self.pad_id, self.unk_id = tokenizer.fixed, tokenizer.pad_id, tokenizer.unk_id

    def encode(self, texts, max_length):
        """Ids of each text, at most `max_length` of them tokens: a list of int32 arrays."""
        tokens = self._tokenizer.encode(texts, min(max_length, self.longest))
        characters = self._characters.encode(texts, self._longest_text)
        return [np.concatenate([some, more + np.int32(self._first)]) for some, more in zip(tokens, characters)]
