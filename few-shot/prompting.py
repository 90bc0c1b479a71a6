"""The prompt: its template, label words, the ids of a row, and the model that answers at the mask.

A row is [CLS], pieces before the text, the text, pieces after it, [SEP]. Every piece that is more than a word of the
vocabulary (a soft token, the mask, a token of another type than the text) has an id of its own, from the vocabulary's
size on. So a row is a sequence of ids and nothing else, in training, in evaluation and on a server.
"""

import ast
import copy
import os
import re
from dataclasses import dataclass
from tempfile import TemporaryDirectory

import numpy as np

from text_cls.batching import Encoded, sorted_batches
from text_cls.cli import Problems, UserError
from text_cls.files import write_json
from text_cls.neural.compat import import_paddle
from text_cls.neural.export import tokenizer_problem
from text_cls.neural.model import longest_input

DEFAULT_PROMPT = "{'soft'}{'text': 'text_a'}{'mask'}"  # PaddleNLP's, where none is given
TEXT = "text_a"
KINDS = ("text", "mask", "soft", "soft_id", "sep", "hard")
ATTRIBUTES = {
    "text": {"token_type", "truncate"},
    "mask": {"token_type", "length"},
    "sep": {"token_type"},
    "hard": {"token_type"},
    "soft": {"token_type", "length", "encoder", "hidden_size"},
}
LONGEST_SOFT = 100  # soft tokens of one piece; more than that is a slip of the finger
REFUSED = {
    "prefix": "prefix tuning puts vectors into every layer, which no exported classifier has; use {'soft': None}",
    "position": "positions follow from the order; leave it out",
    "options": "a choice among options is another task; leave it out",
    "add_omask": "a choice among options is another task; leave it out",
    "add_prompt": "a choice among options is another task; leave it out",
}

# ------------------------------------------------------------------------------------------------------ what is written


def parse_prompt(text):
    """A prompt as PaddleNLP's AutoTemplate takes it: a list of parts like {"hard": "这句话说的是"}, {"mask": None}.

    `text`: words and parts in braces; words alone stand between the text and the mask; None for a soft token, the text
    and the mask.
    Raises:
        UserError: it does not parse, or says what an exported classifier cannot do.
    """
    text = DEFAULT_PROMPT if text is None else text
    parts = []
    for piece in re.split(r"(\{[^{}]*\})", text):
        if piece.startswith("{") and piece.endswith("}"):
            parts.append(_part(piece))
        elif found := re.search("[{}｛｝]", piece):
            what = "a brace without its other" if found[0] in "{}" else f"a full-width brace {found[0]}"
            raise UserError(f"--prompt {text!r}: {what}; a part is written like {{'mask'}}")
        elif piece.strip():
            parts.append({"hard": piece.strip()})
    if not any("text" in part for part in parts):  # as AutoTemplate completes it
        parts = [{"text": TEXT}, *parts]
        parts += [] if any("mask" in part for part in parts) else [{"mask": None}]
    for kind in ("text", "mask"):
        count = sum(kind in part for part in parts)
        if count != 1:
            written = "{'text': 'text_a'}" if kind == "text" else "{'mask'}"
            raise UserError(f"--prompt {text!r}: {count} of {written}; write it once")
    return parts


def _part(piece):
    try:
        part = ast.literal_eval(piece)
        part = dict.fromkeys(part) if isinstance(part, set) else part
        keys = set(part)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise UserError(f"--prompt: {piece} is not understood; a part is written like {{'mask'}}") from error
    for name in sorted(REFUSED.keys() & keys):
        raise UserError(f"--prompt: {piece}: {REFUSED[name]}")
    kind = next((name for name in KINDS if name in keys), None)
    if kind is None:
        raise UserError(f"--prompt: {piece} is none of {', '.join(KINDS)}")
    kind = "soft" if kind == "soft_id" else kind
    strange = keys - ATTRIBUTES[kind] - {kind} - ({"soft_id"} if kind == "soft" else set())
    if strange:
        known = ", ".join(sorted(ATTRIBUTES[kind]))
        raise UserError(f"--prompt: {piece}: {', '.join(map(str, sorted(strange, key=str)))}: a {kind} has {known}")
    faults = {
        "text": kind == "text" and not isinstance(part["text"], str),
        "hard": kind == "hard" and not isinstance(part["hard"], str),
        "soft": kind == "soft" and (part.get("soft") == "" or not isinstance(part.get("soft"), str | None)),
        "soft_id": not isinstance(part.get("soft_id", 1), int),
        "token_type": part.get("token_type", 0) not in (0, 1),
        "truncate": part.get("truncate", True) is not True,  # the text is what is cut, and the text alone
        "length": not (isinstance(part.get("length", 1), int) and 1 <= part.get("length", 1) <= LONGEST_SOFT),
        "encoder": part.get("encoder") not in (None, "lstm", "mlp"),
        "hidden_size": not (isinstance(part.get("hidden_size", 1), int) and part.get("hidden_size", 1) > 0),
    }
    if kind == "mask":
        faults["length"] = part.get("length", 1) != 1  # the verbalizer reads one
    for name, wrong in faults.items():
        if wrong:
            raise UserError(f"--prompt: {piece}: {name} cannot be {part.get(name)!r}")
    return part


# ---------------------------------------------------------------------------------------------------- ids and the model


@dataclass
class Layout:
    """The ids of a row that are not the text's.

    ids: int [n], [CLS] first and [SEP] last. place: the text stands before ids[place]. vocab_size: ids from it on are
    own ones; own: {"input_ids", "token_type_ids", "soft_token_ids", "encoder_ids": int [own]} what PaddleNLP's prompt
    model takes for them. text_type: token type of the text, and of all that has no own id. mask_id: id of the mask.
    """

    ids: np.ndarray
    place: int
    vocab_size: int
    own: dict
    text_type: int
    mask_id: int

    def template(self, truncate_mode):
        """What `template.json` of a bundle holds, for tokenization.py."""
        ids = self.ids.tolist()
        return {"before": ids[: self.place], "after": ids[self.place :], "truncate_mode": truncate_mode}

    def prompt_inputs(self, ids):
        """What PaddleNLP's prompt model takes, of rows of ids [rows, tokens]: {name: int64 array}."""
        extra = ids >= self.vocab_size
        place = np.where(extra, ids - self.vocab_size, 0)
        plain = {"input_ids": ids, "token_type_ids": self.text_type, "soft_token_ids": 0, "encoder_ids": 0}
        inputs = {name: np.where(extra, self.own[name][place], value) for name, value in plain.items()}
        # Upstream gives the last [SEP] position 0; positions are left out, and are what they were in pretraining.
        return {**inputs, "masked_positions": np.flatnonzero(ids == self.mask_id)}


def layout_of(template, tokenizer, vocab_size):
    """The `Layout` of a PaddleNLP template. UserError where words of the prompt are special tokens."""
    here = tokenizer.pad_token  # stands for the text
    text = next(part["text"] for part in template.prompt if "text" in part)
    made = template({text: here})
    words, places = np.array(made["input_ids"]), np.flatnonzero(np.array(made["input_ids"]) == tokenizer.pad_token_id)
    if len(places) != 1 or len(made["masked_positions"]) != 1:
        raise UserError(f"--prompt: {here} and {tokenizer.mask_token} cannot be words of it; the mask is {{'mask'}}")
    types = np.array(made["token_type_ids"])
    zeros = np.zeros_like(words)
    soft, encoders = (np.array(made.get(name, zeros)) for name in ("soft_token_ids", "encoder_ids"))
    place, mask = int(places[0]), made["masked_positions"][0]
    own = (soft > 0) | (types != types[place])
    own[mask], own[place] = True, False
    words = np.where(soft > 0, tokenizer.unk_token_id, words)
    ids = np.where(own, vocab_size + np.cumsum(own) - 1, words)
    columns = {"input_ids": words, "token_type_ids": types, "soft_token_ids": soft, "encoder_ids": encoders}
    return Layout(
        ids=np.delete(ids, place),
        place=place,
        vocab_size=vocab_size,
        text_type=int(types[place]),
        own={name: values[own] for name, values in columns.items()},
        mask_id=int(ids[mask]),
    )


@dataclass
class PromptTask:
    """The model and all that turns a text into its input. model: PaddleNLP's PromptModelForSequenceClassification."""

    model: object
    tokenizer: object  # PaddleNLP's
    layout: Layout
    serving: object  # tokenization.Prompted: the tokens of a server, and of training

    def encode(self, texts, max_seq_length):
        """Tokens of a sequence of texts as `Encoded`, the text cut so that the row has `max_seq_length`."""
        texts = [texts[i] for i in range(len(texts))]
        rows = self.serving.encode(texts, max_seq_length)
        full = [text for text, row in zip(texts, rows) if len(row) == max_seq_length]
        more = self.serving.encode(full, max_seq_length + 1)
        return self.pack(rows, sum(len(row) > max_seq_length for row in more))

    def pack(self, rows, truncated=0):
        """Rows of ids, a list of int arrays, as `Encoded`."""
        offsets = np.cumsum([0, *map(len, rows)], dtype=np.int64)
        padding = {"input_ids": self.tokenizer.pad_token_id}
        return Encoded({"input_ids": np.concatenate(rows)}, offsets, padding, False, False, truncated)

    def describe(self):
        """A row as people read it: `[CLS] <text> 这 是 [MASK] [SEP]`."""
        inputs = self.layout.prompt_inputs(self.layout.ids[None])
        words = self.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0].tolist())
        words = ["<soft>" if soft else word for word, soft in zip(words, inputs["soft_token_ids"][0])]
        words.insert(self.layout.place, "<text>")
        return " ".join(words)

    def inputs(self, encoded, rows):
        """Arrays for the model, of the rows given."""
        return self.layout.prompt_inputs(encoded.batch(rows)["input_ids"])

    def logits(self, encoded, batch_size):
        """float32 array [rows, labels], without gradient or dropout. The model is in the mode it was in before."""
        import paddle

        was_training = self.model.training
        logits = np.zeros((len(encoded), len(self.model.verbalizer.labels)), dtype=np.float32)
        self.model.eval()
        for rows in sorted_batches(encoded.lengths, batch_size):
            with paddle.no_grad():
                inputs = {name: paddle.to_tensor(value) for name, value in self.inputs(encoded, rows).items()}
                logits[rows] = self.model(**inputs).numpy()
        if was_training:
            self.model.train()
        return logits


def make_task(plm, tokenizer, parts, labels, words, args):
    """A `PromptTask` on a masked-language model, which loses its head to the label words.

    Args:
        parts: of `parse_prompt`. labels: `Labels`. words: [[word, ...] of each label].
        args: max_seq_length, truncate_mode, freeze_plm and freeze_dropout of train.py.
    Raises:
        UserError: the prompt or the label words are at odds with the model; the text lists what.
    """
    import_paddle()
    from paddlenlp.prompt import AutoTemplate, PromptModelForSequenceClassification

    from text_cls.tokenization import load_tokenizer

    class PromptModel(PromptModelForSequenceClassification):
        def train(self):
            super().train()
            if self.freeze_dropout:  # PaddleNLP (2.8) puts it to sleep once, and the first step wakes it
                self.plm.eval()

    problems, limit = Problems(), longest_input(plm.config)
    if any(part.get("token_type", 0) >= plm.config.type_vocab_size for part in parts):
        problems.add(f"--prompt: this model has {plm.config.type_vocab_size} token types, numbered from 0")
    if args.max_seq_length > limit:
        problems.add(f"--max_seq_length {args.max_seq_length}: this model takes {limit} tokens at most")
    if problem := tokenizer_problem(tokenizer):
        problems.add(problem)
    tokens = word_tokens(tokenizer, labels, words, problems)
    problems.stop_if_any()
    try:
        template = AutoTemplate.create_from(copy.deepcopy(parts), tokenizer, limit, model=plm)
    except (ValueError, AssertionError) as error:  # which says nothing
        why = str(error) or "words of one soft_id stand once; further parts name the soft_id alone"
        raise UserError(f"--prompt: {why}") from error
    layout = layout_of(template, tokenizer, plm.config.vocab_size)
    if args.max_seq_length <= len(layout.ids):
        raise UserError(f"--max_seq_length {args.max_seq_length}: the prompt alone takes {len(layout.ids)} tokens")
    verbalizer = make_verbalizer(plm, tokenizer, labels, words, tokens)
    model = PromptModel(plm, template, verbalizer, args.freeze_plm, args.freeze_dropout)
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        write_json(os.path.join(folder, "template.json"), layout.template(args.truncate_mode))
        return PromptTask(model, tokenizer, layout, load_tokenizer(folder))


def word_tokens(tokenizer, labels, words, problems):
    """Ids of label words: [[[id, ...] of each word] of each label]. Words without any go to `problems`."""
    ids = [[tokenizer.encode(word, add_special_tokens=False)["input_ids"] for word in of_label] for of_label in words]
    for name, of_label, found in zip(labels.names, words, ids):
        for word in (word for word, tokens in zip(of_label, found) if not tokens):
            problems.add(f"label {name!r}: the word {word!r} has no tokens; give another: {name}==word")
    return ids


def unknown_words(tokenizer, labels, words):
    """Label words, as texts `label==word`, of which the vocabulary holds no piece."""
    return [
        f"{name}=={word}"
        for name, of_label in zip(labels.names, words)
        for word in of_label
        if set(tokenizer.encode(word, add_special_tokens=False)["input_ids"]) == {tokenizer.unk_token_id}
    ]


def make_verbalizer(plm, tokenizer, labels, words, tokens):
    """PaddleNLP's SoftVerbalizer, its outputs in the labels' order, each begun as the mean of its words' embeddings.

    PaddleNLP (2.8) sorts the labels, takes the first word alone, and mixes up the embeddings it begins with: it
    reshapes [words, width] to [width, words] where it would have to transpose.
    """
    import paddle
    from paddlenlp.prompt import SoftVerbalizer

    decoder = plm.get_output_embeddings()
    weight, bias = decoder.weight.numpy(), decoder.bias.numpy()
    first = {name: of_label[0] for name, of_label in zip(labels.names, words)}
    verbalizer = SoftVerbalizer(first, tokenizer, plm)
    verbalizer._labels, verbalizer.labels_to_ids = list(labels.names), dict(labels.index)
    head = getattr(verbalizer.head, verbalizer.head_name[-1])
    for parameter, values in ((head.weight, weight), (head.bias, bias)):
        means = [np.mean([values[ids].mean(axis=0) for ids in of_label], axis=0) for of_label in tokens]
        parameter.set_value(paddle.to_tensor(np.array(means, dtype=np.float32)))
    return verbalizer
