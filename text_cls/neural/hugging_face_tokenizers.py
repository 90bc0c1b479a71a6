"""Tokenizers of Hugging Face's folders.

WordPiece with a vocab.txt becomes PaddleNLP's ErnieTokenizer. Any other runs in Hugging Face's library `tokenizers`, in
training as on a server, from its tokenizer.json; of XLM-R's sentencepiece.bpe.model, one is made.
"""

import json
import os
from typing import Any

import numpy as np

from text_cls.cli import UserError
from text_cls.files import write_json
from text_cls.language import reason_of, tr
from text_cls.tokenization import FROM_JSON, SPECIAL_NAMES, TokenizerJson, open_tokenizer_json

SENTENCEPIECE, JSON, VOCABULARY = "sentencepiece.bpe.model", "tokenizer.json", "vocab.txt"
CONFIG = "tokenizer_config.json"
# Special tokens where tokenizer_config.json does not name them.
USUAL = {name: (f"<{name[:-6]}>", f"[{name[:-6].upper()}]") for name in SPECIAL_NAMES}
USUAL |= {"cls_token": ("<s>", "[CLS]"), "sep_token": ("</s>", "[SEP]")}
NO_LIMIT = 1 << 30  # tokens of a text
UNIGRAM = (0, 1)  # kinds of a SentencePiece model: unset, and Unigram itself


class JsonTokenizer(TokenizerJson):
    """A tokenizer.json, with what this project uses of PaddleNLP's tokenizers."""

    padding_side, pad_token_type_id = "right", 0

    def __init__(self, rust, config):
        super().__init__(rust, config)
        self.pad_token_id, self.unk_token_id, self.vocab_size = self.pad_id, self.unk_id, len(self.vocabulary)

    def __len__(self):
        return self.vocab_size

    def __call__(self, texts, max_length=NO_LIMIT, truncation=False, **_):
        """{"input_ids", "token_type_ids": numbers of a text, or a list of those of each text}; all types are 0."""
        rows = self.encode([texts] if isinstance(texts, str) else texts, max_length if truncation else NO_LIMIT)
        made = {"input_ids": [row.tolist() for row in rows], "token_type_ids": [[0] * len(row) for row in rows]}
        return {name: values[0] for name, values in made.items()} if isinstance(texts, str) else made

    def spans(self, text):
        """int array [tokens, 2]: start and end in the text of each of its tokens, without the added special ones."""
        offsets = self._rust.encode(text, add_special_tokens=False).offsets
        return np.array([(start, max(end, start + 1)) for start, end in offsets], dtype=np.int64).reshape(-1, 2)

    def save_pretrained(self, folder):
        """Writes tokenizer.json and tokenizer_config.json, which transformers reads as well."""
        self._rust.save(os.path.join(folder, JSON))
        write_json(os.path.join(folder, CONFIG), {"tokenizer_class": FROM_JSON, **self.specials})


def open_tokenizer(name: str) -> Any:
    """The tokenizer of a checkpoint, or of a folder or a name of PaddleNLP's: PaddleNLP's own, or a `JsonTokenizer`."""
    path = os.path.join(name, CONFIG)
    config = read_json(path) if os.path.exists(path) else {}
    if config.get("tokenizer_class") == FROM_JSON:
        return JsonTokenizer(open_tokenizer_json(name), config)
    from paddlenlp.transformers import AutoTokenizer

    return with_splitting(AutoTokenizer.from_pretrained(name))


# ---------------------------------------------------------------------------------------------- Hugging Face's folders


def load_tokenizer(folder: str) -> Any:
    """The tokenizer of a Hugging Face folder, which gives the ids that transformers gives.

    Returns:
        PaddleNLP's ErnieTokenizer, or a `JsonTokenizer`.
    Raises:
        UserError: a file is missing or damaged, or has settings that this code does not know.
    """
    path = os.path.join(folder, CONFIG)
    config = read_json(path) if os.path.exists(path) else {}
    has = {name: os.path.exists(os.path.join(folder, name)) for name in (VOCABULARY, JSON, SENTENCEPIECE)}
    strange = _strange_settings(config)
    if has[VOCABULARY] and not (strange and has[JSON]):
        if strange:
            raise UserError(
                tr(
                    "{path}: {strange} cannot be used without a {json}; use another model",
                    path=path,
                    strange=", ".join(strange),
                    json=JSON,
                )
            )
        return _wordpiece(folder, config)
    try:
        if has[JSON]:
            return _named(open_tokenizer_json(folder), config)
        if has[SENTENCEPIECE]:
            return _named(_xlmr(os.path.join(folder, SENTENCEPIECE)), config)
    except ValueError as error:
        raise UserError(f"{folder}: {error}") from error
    raise UserError(
        tr(
            "{folder} has no {json}, no {vocabulary} and no {sentencepiece}; copy the whole folder",
            folder=folder,
            json=JSON,
            vocabulary=VOCABULARY,
            sentencepiece=SENTENCEPIECE,
        )
    )


def read_json(path: str) -> dict:
    """The object in a file of a Hugging Face folder. Raises UserError if it is damaged."""
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
        if not isinstance(found, dict):
            raise ValueError(tr("an object is expected"))
        return found
    except (OSError, ValueError, RecursionError) as error:
        reason = reason_of(error)
        raise UserError(tr("{path}: {reason}; copy the whole folder again", path=path, reason=reason)) from error


def _strange_settings(config):
    """Settings of a BertTokenizer that PaddleNLP's does not have."""
    strange = [name for name in ("never_split",) if config.get(name)]
    strange += [name for name in ("tokenize_chinese_chars", "do_basic_tokenize") if not config.get(name, True)]
    strange += ["strip_accents"] if config.get("strip_accents") not in (None, config.get("do_lower_case", True)) else []
    return strange


def _wordpiece(folder, config):
    from paddlenlp.transformers import ErnieTokenizer

    special = {name: config[name] for name in SPECIAL_NAMES if isinstance(config.get(name), str)}
    settings = {"do_lower_case": config.get("do_lower_case", True)}
    settings["split_symbols"] = bool(config.get("split_symbols", False))  # only in the folders of export_model.py
    tokenizer = ErnieTokenizer(os.path.join(folder, VOCABULARY), **settings, **special)
    tokenizer.sanitize_special_tokens()  # now they stay whole in a text, as after from_pretrained
    return with_splitting(tokenizer)


def with_splitting(tokenizer):
    """The tokenizer, which splits words only at punctuation if it was made from a Hugging Face folder.

    PaddleNLP's also splits at symbols such as ℃, which the encoder has never seen alone.
    """
    if tokenizer.init_kwargs.get("split_symbols", True):
        return tokenizer
    from paddlenlp.transformers import BasicTokenizer
    from paddlenlp.transformers.tokenizer_utils import _is_punctuation

    class Splitting(BasicTokenizer):
        def _run_split_on_punc(self, text, never_split=None):
            if never_split and text in never_split:
                return [text]
            return "".join(f" {char} " if _is_punctuation(char) else char for char in text).split(" ")

    tokenizer.basic_tokenizer = Splitting(do_lower_case=tokenizer.init_kwargs.get("do_lower_case", True))
    return tokenizer


def _named(rust, config):
    """A `JsonTokenizer`. config: tokenizer_config.json of a Hugging Face folder, where a token may be an object."""
    vocabulary, names = rust.get_vocab(), {}
    for name, usual in USUAL.items():
        given = config.get(name)
        given = given.get("content") if isinstance(given, dict) else given
        names[name] = next((token for token in (given, *usual) if token in vocabulary), None)
    return JsonTokenizer(rust, names)


def _xlmr(path):
    """XLM-R's tokenizer of the library `tokenizers`, of its SentencePiece model, as transformers (5) makes it.

    The ids are those of fairseq: its own four special tokens, then the pieces from number 3 on, then <mask>.

    Raises:
        ValueError: the file is damaged, or a SentencePiece model of another form.
    """
    from google.protobuf.message import DecodeError
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    try:
        with open(path, "rb") as file:
            found = sentencepiece_message().FromString(file.read())
    except DecodeError as error:
        raise ValueError(tr("{path} is damaged; copy it again", path=path)) from error
    if [piece.piece for piece in found.pieces[:3]] != [
        "<unk>",
        "<s>",
        "</s>",
    ] or found.trainer.model_type not in UNIGRAM:
        raise ValueError(tr("{path} is not XLM-R's; add the folder's tokenizer.json", path=path))
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    pieces = [(piece.piece, piece.score) for piece in found.pieces[3:]]
    pieces = [*((token, 0.0) for token in special[:4]), *pieces, (special[4], 0.0)]
    made = Tokenizer(models.Unigram(pieces, unk_id=3, byte_fallback=False))
    if found.normalizer.precompiled_charsmap:
        made.normalizer = normalizers.Precompiled(found.normalizer.precompiled_charsmap)
    underline = {"replacement": "▁", "prepend_scheme": "always"}
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(**underline)]
    )
    made.decoder = decoders.Metaspace(**underline)
    made.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    ends = [(token, made.token_to_id(token)) for token in ("<s>", "</s>")]
    made.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    return made


def sentencepiece_message():
    """Protobuf class of a SentencePiece model with only what is read here declared; the rest passes through unread.

    SentencePiece's own class, sentencepiece_model_pb2, needs a newer protobuf than Paddle and ONNX Runtime run with.
    """
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto
    fields = {
        "Piece": [("piece", 1, kinds.TYPE_STRING), ("score", 2, kinds.TYPE_FLOAT), ("type", 3, kinds.TYPE_INT32)],
        "Trainer": [("model_type", 3, kinds.TYPE_INT32)],
        "Normalizer": [("precompiled_charsmap", 2, kinds.TYPE_BYTES)],
        "Model": [("pieces", 1, ".s.Piece"), ("trainer", 2, ".s.Trainer"), ("normalizer", 3, ".s.Normalizer")],
    }
    file = descriptor_pb2.FileDescriptorProto(name="s.proto", package="s", syntax="proto2")
    for message, parts in fields.items():
        added = file.message_type.add(name=message)
        for name, number, kind in parts:
            label = kinds.LABEL_REPEATED if name == "pieces" else kinds.LABEL_OPTIONAL
            what = {"type_name": kind} if isinstance(kind, str) else {"type": kind}
            added.field.add(name=name, number=number, label=label, **what)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("s.Model"))
