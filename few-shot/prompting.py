"""The prompt: its template, its label words, the token ids of a row, and the model that predicts at the mask.

A row is [CLS], tokens before the text, the text, tokens after it, [SEP]. Every token that is more than an entry of the
vocabulary (a soft token, the mask, a token whose type differs from the text's) gets an id of its own, starting at the
vocabulary's size. So a row is just a sequence of ids, in training, in evaluation and on a server.
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
from text_cls.language import N_, tr
from text_cls.neural.compat import import_paddle
from text_cls.neural.export import tokenizer_problem
from text_cls.neural.model import longest_input
from text_cls.rows import Labels

DEFAULT_PROMPT = "{'soft'}{'text': 'text_a'}{'mask'}"  # PaddleNLP's default
TEXT = "text_a"
KINDS = ("text", "mask", "soft", "soft_id", "sep", "hard")
ATTRIBUTES = {
    "text": {"token_type", "truncate"},
    "mask": {"token_type", "length"},
    "sep": {"token_type"},
    "hard": {"token_type"},
    "soft": {"token_type", "length", "encoder", "hidden_size"},
}
LONGEST_SOFT = 100  # soft tokens per part; a larger number is probably a typo
REFUSED = {
    "prefix": N_(
        "prefix tuning adds vectors to every layer, which an exported classifier cannot have; use {'soft': None}"
    ),
    "position": N_("positions follow from the order; leave it out"),
    "options": N_("choosing among options is a different task; leave it out"),
    "add_omask": N_("choosing among options is a different task; leave it out"),
    "add_prompt": N_("choosing among options is a different task; leave it out"),
}

# -------------------------------------------------------------------------------------------------------------- parsing


def parse_prompt(text):
    """Parses a prompt into PaddleNLP's parts, as for AutoTemplate: [{"hard": "这句话说的是"}, {"mask": None}, ...].

    Args:
        text: words, and parts in braces. If there are only words, they go between the text and the mask. None for
            `DEFAULT_PROMPT`.
    Raises:
        UserError: the prompt does not parse, or asks for something an exported classifier cannot do.
    """
    text = DEFAULT_PROMPT if text is None else text
    parts = []
    for piece in re.split(r"(\{[^{}]*\})", text):
        if piece.startswith("{") and piece.endswith("}"):
            parts.append(_part(piece))
        elif found := re.search("[{}｛｝]", piece):
            what = tr("unmatched brace") if found[0] in "{}" else tr("full-width brace")
            raise UserError(
                tr(
                    "--prompt {text!r}: {what} {found}; write a part like {{'mask'}}",
                    text=text,
                    what=what,
                    found=found[0],
                )
            )
        elif piece.strip():
            parts.append({"hard": piece.strip()})
    if not any("text" in part for part in parts):  # AutoTemplate does the same
        parts = [{"text": TEXT}, *parts]
        parts += [] if any("mask" in part for part in parts) else [{"mask": None}]
    for kind in ("text", "mask"):
        count = sum(kind in part for part in parts)
        if count != 1:
            written = "{'text': 'text_a'}" if kind == "text" else "{'mask'}"
            raise UserError(
                tr(
                    "--prompt {text!r}: {written} appears {count} times; write it once",
                    text=text,
                    written=written,
                    count=count,
                )
            )
    return parts


def _part(piece):
    try:
        part = ast.literal_eval(piece)
        part = dict.fromkeys(part) if isinstance(part, set) else part
        keys = set(part)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise UserError(tr("--prompt: cannot parse {piece}; write a part like {{'mask'}}", piece=piece)) from error
    for name in sorted(REFUSED.keys() & keys):
        raise UserError(f"--prompt: {piece}: {tr(REFUSED[name])}")
    kind = next((name for name in KINDS if name in keys), None)
    if kind is None:
        raise UserError(tr("--prompt: {piece} has none of the keys {kinds}", piece=piece, kinds=", ".join(KINDS)))
    kind = "soft" if kind == "soft_id" else kind
    strange = keys - ATTRIBUTES[kind] - {kind} - ({"soft_id"} if kind == "soft" else set())
    if strange:
        unknown, known = ", ".join(map(str, sorted(strange, key=str))), ", ".join(sorted(ATTRIBUTES[kind]))
        raise UserError(
            tr(
                "--prompt: {piece}: unknown key {unknown}; a {kind} part takes {known}",
                piece=piece,
                unknown=unknown,
                kind=kind,
                known=known,
            )
        )
    faults = {
        "text": kind == "text" and not isinstance(part["text"], str),
        "hard": kind == "hard" and not isinstance(part["hard"], str),
        "soft": kind == "soft" and (part.get("soft") == "" or not isinstance(part.get("soft"), str | None)),
        "soft_id": not isinstance(part.get("soft_id", 1), int),
        "token_type": part.get("token_type", 0) not in (0, 1),
        "truncate": part.get("truncate", True) is not True,  # only the text is ever truncated
        "length": not (isinstance(part.get("length", 1), int) and 1 <= part.get("length", 1) <= LONGEST_SOFT),
        "encoder": part.get("encoder") not in (None, "lstm", "mlp"),
        "hidden_size": not (isinstance(part.get("hidden_size", 1), int) and part.get("hidden_size", 1) > 0),
    }
    if kind == "mask":
        faults["length"] = part.get("length", 1) != 1  # the verbalizer reads one mask
    for name, wrong in faults.items():
        if wrong:
            raise UserError(
                tr("--prompt: {piece}: {name} cannot be {get!r}", piece=piece, name=name, get=part.get(name))
            )
    return part


# ------------------------------------------------------------------------------------------------------------- the task


@dataclass
class Prompt:
    """parts: the template, from `parse_prompt`. labels: the words below belong to them, in this order. words: the label
    words, [[word, ...] of each label]."""

    parts: list
    labels: Labels
    words: list


@dataclass
class Layout:
    """The token ids that a prompt puts around a text.

    ids: int [n], [CLS] first and [SEP] last. place: the text goes before ids[place]. vocab_size: ids
    from it on are the prompt's own. own: what PaddleNLP's prompt model takes for these, {"input_ids", "token_type_ids",
    "soft_token_ids", "encoder_ids": int [own ids]}. text_type: token type of the text and of all other ids. mask_id:
    id of the mask.
    """

    ids: np.ndarray
    place: int
    vocab_size: int
    own: dict
    text_type: int
    mask_id: int

    @property
    def num_ids(self):
        """The number of ids: those of the vocabulary, and the prompt's own."""
        return self.vocab_size + len(self.own["input_ids"])

    def template(self, truncate_mode):
        """The content of a bundle's `template.json`, which tokenization.py reads."""
        ids = self.ids.tolist()
        return {"before": ids[: self.place], "after": ids[self.place :], "truncate_mode": truncate_mode}

    def prompt_inputs(self, ids):
        """Inputs of PaddleNLP's prompt model for ids [rows, tokens]: {name: int64 array}."""
        extra = ids >= self.vocab_size
        place = np.where(extra, ids - self.vocab_size, 0)
        plain = {"input_ids": ids, "token_type_ids": self.text_type, "soft_token_ids": 0, "encoder_ids": 0}
        inputs = {name: np.where(extra, self.own[name][place], value) for name, value in plain.items()}
        # PaddleNLP gives the last [SEP] position 0; without positions, the model counts them as in pretraining.
        return {**inputs, "masked_positions": np.flatnonzero(ids == self.mask_id)}


def layout_of(template, tokenizer, vocab_size):
    """The `Layout` of a PaddleNLP template. Raises UserError if the prompt's words include [PAD] or [MASK]."""
    here = tokenizer.pad_token  # a placeholder for the text
    text = next(part["text"] for part in template.prompt if "text" in part)
    made = template({text: here})
    words, places = np.array(made["input_ids"]), np.flatnonzero(np.array(made["input_ids"]) == tokenizer.pad_token_id)
    if len(places) != 1 or len(made["masked_positions"]) != 1:
        raise UserError(
            tr(
                "--prompt: {here} and {mask_token} cannot be used as words; write {{'mask'}}",
                here=here,
                mask_token=tokenizer.mask_token,
            )
        )
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
    """A prompt model and what turns a text into its input.

    model: PaddleNLP's PromptModelForSequenceClassification. tokenizer: PaddleNLP's. truncate_mode: which end of a long
    text is cut, tail or head. serving: `tokenization.Prompted`, the tokenizer of servers, used in training as well.
    """

    model: object
    tokenizer: object
    prompt: Prompt
    layout: Layout
    truncate_mode: str
    serving: object

    def encode(self, texts, max_seq_length):
        """Tokens of a sequence of texts as `Encoded`, each text cut so that its row has at most `max_seq_length`."""
        texts = list(texts)
        rows = self.serving.encode(texts, max_seq_length)
        full = [text for text, row in zip(texts, rows) if len(row) == max_seq_length]
        longer = self.serving.encode(full, max_seq_length + 1)
        return self.pack(rows, sum(len(row) > max_seq_length for row in longer))

    def pack(self, rows, truncated=0):
        """Packs rows of ids, a list of int arrays, into `Encoded`."""
        offsets = np.cumsum([0, *map(len, rows)], dtype=np.int64)
        padding = {"input_ids": self.tokenizer.pad_token_id}
        return Encoded({"input_ids": np.concatenate(rows)}, offsets, padding, False, False, truncated)

    def describe(self):
        """A row in readable form: `[CLS] <text> 这 是 [MASK] [SEP]`."""
        inputs = self.layout.prompt_inputs(self.layout.ids[None])
        words = self.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0].tolist())
        words = ["<soft>" if soft else word for word, soft in zip(words, inputs["soft_token_ids"][0])]
        words.insert(self.layout.place, "<text>")
        return " ".join(words)

    def inputs(self, encoded, rows):
        """Input arrays of the model for the given row numbers."""
        return self.layout.prompt_inputs(encoded.batch(rows)["input_ids"])

    def logits(self, encoded, batch_size):
        """Predicts without gradient or dropout; the model's mode is restored. Returns float32 [rows, labels]."""
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


def make_task(plm, tokenizer, prompt, max_seq_length, truncate_mode="tail", freeze_plm=False, freeze_dropout=False):
    """Makes a `PromptTask` of a masked-language model, whose head is replaced by the label words'.

    Args:
        prompt: `Prompt`. max_seq_length: tokens of a row, prompt included. truncate_mode: tail or head.
        freeze_plm: train only soft tokens and label words. freeze_dropout: also disable the model's dropout.
    Raises:
        UserError: the prompt or the label words do not fit the model; the text lists every problem.
    """
    import_paddle()
    from paddlenlp.prompt import AutoTemplate

    from text_cls.tokenization import load_tokenizer

    problems, limit = Problems(), longest_input(plm.config)
    if any(part.get("token_type", 0) >= plm.config.type_vocab_size for part in prompt.parts):
        problems.add(
            tr(
                "--prompt: this model has {type_vocab_size} token types, numbered from 0",
                type_vocab_size=plm.config.type_vocab_size,
            )
        )
    if max_seq_length > limit:
        problems.add(
            tr(
                "--max_seq_length {max_seq_length}: this model takes at most {limit} tokens",
                max_seq_length=max_seq_length,
                limit=limit,
            )
        )
    if problem := tokenizer_problem(tokenizer):
        problems.add(problem)
    tokens = word_tokens(tokenizer, prompt, problems)
    problems.stop_if_any()
    try:
        template = AutoTemplate.create_from(copy.deepcopy(prompt.parts), tokenizer, limit, model=plm)
    except (ValueError, AssertionError) as error:  # an AssertionError has no text
        why = str(error) or tr("write the words of a soft_id once; its other parts have the soft_id alone")
        raise UserError(f"--prompt: {why}") from error
    layout = layout_of(template, tokenizer, plm.config.vocab_size)
    if max_seq_length <= len(layout.ids):
        raise UserError(
            tr(
                "--max_seq_length {max_seq_length}: the prompt alone takes {count} tokens",
                max_seq_length=max_seq_length,
                count=len(layout.ids),
            )
        )
    verbalizer = make_verbalizer(plm, tokenizer, prompt, tokens)
    model = _prompt_model_class()(plm, template, verbalizer, freeze_plm, freeze_dropout)
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        write_json(os.path.join(folder, "template.json"), layout.template(truncate_mode))
        return PromptTask(model, tokenizer, prompt, layout, truncate_mode, load_tokenizer(folder))


def _prompt_model_class():
    from paddlenlp.prompt import PromptModelForSequenceClassification

    class PromptModel(PromptModelForSequenceClassification):
        def train(self):
            super().train()
            if self.freeze_dropout:  # PaddleNLP (2.8) disables it once, and the first step enables it again
                self.plm.eval()

    return PromptModel


# ---------------------------------------------------------------------------------------------------------- label words


def word_tokens(tokenizer, prompt, problems):
    """Ids of the label words: [[[id, ...] of each word] of each label]. Words without tokens go to `problems`."""
    ids = [
        [tokenizer.encode(word, add_special_tokens=False)["input_ids"] for word in of_label]
        for of_label in prompt.words
    ]
    for name, of_label, found in zip(prompt.labels.names, prompt.words, ids):
        for word in (word for word, tokens in zip(of_label, found) if not tokens):
            problems.add(
                tr(
                    "label {name!r}: the word {word!r} has no tokens; use another one: {name}==word",
                    name=name,
                    word=word,
                )
            )
    return ids


def unknown_words(tokenizer, prompt):
    """Label words of which the vocabulary has no token at all, as texts `label==word`."""
    return [
        f"{name}=={word}"
        for name, of_label in zip(prompt.labels.names, prompt.words)
        for word in of_label
        if set(tokenizer.encode(word, add_special_tokens=False)["input_ids"]) == {tokenizer.unk_token_id}
    ]


def make_verbalizer(plm, tokenizer, prompt, tokens):
    """PaddleNLP's SoftVerbalizer, its outputs in label order, each initialised to the mean of its words' embeddings.

    PaddleNLP (2.8) sorts the labels, takes only the first word, and scrambles the initial embeddings: it reshapes
    [words, width] to [width, words] instead of transposing. tokens: from `word_tokens`.
    """
    import paddle
    from paddlenlp.prompt import SoftVerbalizer

    decoder, labels = plm.get_output_embeddings(), prompt.labels
    weight, bias = decoder.weight.numpy(), decoder.bias.numpy()
    first = {name: of_label[0] for name, of_label in zip(labels.names, prompt.words)}
    verbalizer = SoftVerbalizer(first, tokenizer, plm)
    verbalizer._labels, verbalizer.labels_to_ids = list(labels.names), dict(labels.index)
    head = getattr(verbalizer.head, verbalizer.head_name[-1])
    for parameter, values in ((head.weight, weight), (head.bias, bias)):
        means = [np.mean([values[ids].mean(axis=0) for ids in of_label], axis=0) for of_label in tokens]
        parameter.set_value(paddle.to_tensor(np.array(means, dtype=np.float32)))
    return verbalizer
