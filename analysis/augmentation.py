"""New texts from old ones, by changing words: substitute, insert, delete, swap, or the four in turn (mix).

Words come from PaddleNLP's dictionaries or a masked language model (`paddlenlp.dataaug`, for Chinese), or from a
dictionary of the user's own. Deleting, swapping and the user's dictionary are done here, since dataaug downloads a
vocabulary and stop words even for them, leaves Latin words alone, and takes its chances from the global generators.
"""

import contextlib
import functools
import hashlib
import http.client
import json
import math
import os
import random
import shutil
import urllib.request

from text_cls.cli import Problems, UserError, logger
from words import has_chinese, jieba_tokenizer, split_words

STRATEGIES = ("substitute", "insert", "delete", "swap", "mix")
TYPES = ("synonym", "homonym", "mlm", "custom")
IN_TURN = ("substitute", "insert", "delete", "swap")  # what "mix" does
MLM_NAME = "ernie-1.0-large-zh-cw"  # dataaug's own default
TRIES = 5  # for each text wanted, as dataaug tries
NEGATIONS = frozenset("不没未无非别莫勿") | {"not", "no", "never", "none", "nor", "without", "cannot"}
CUSTOM_HELP = 'expected JSON of the form {"word": ["other word", "another"]}'

# Files of paddlenlp.dataaug (2.8): {its name for it: (MD5, URL)}. It keeps a copy a class; here one serves both.
URL = "https://bj.bcebos.com/paddlenlp/data"
FILES = {
    "stop_words": ("a4a76df756194777ca18cd788231b474", f"{URL}/stopwords.txt"),
    "vocab": ("25c2d41aec5a6d328a65c1995d4e4c2e", f"{URL}/baidu_encyclopedia_w2v_vocab.json"),
    "word_synonym": ("aaa9f864b4af4123bce4bf138a5bfa0d", f"{URL}/word_synonym.json"),
    "word_homonym": ("a578c04201a697e738f6a1ad555787d5", f"{URL}/word_homonym.json"),
}
TIMEOUT = 10  # seconds without an answer; Paddle's own download waits for ever
WINDOW = 128  # characters that a masked language model sees of a longer text


class Augmenter:
    """Makes new texts. What comes of a text depends on it, the settings and the seed, not on the texts before it.

    Args:
        strategy: one of STRATEGIES.
        aug_type: one of TYPES, for "substitute", "insert" and "mix": where the words come from. A language model
            changes one word, whatever `aug_percent` says.
        create_n: new texts wanted of each text.
        aug_percent: share of a text's words to change, above 0 and up to 1; at least one is changed.
        custom_file: JSON file of "custom", {"word": ["other word", ...]}.
        model_name, device: of "mlm": PaddleNLP's name of a masked language model or its folder; where it computes.

    Raises:
        UserError: a file is not here and cannot be had; the text says which, from where, and where to put it.
    """

    def __init__(
        self,
        strategy,
        aug_type="synonym",
        create_n=1,
        aug_percent=0.1,
        seed=3,
        custom_file=None,
        model_name=MLM_NAME,
        device="cpu",
    ):
        self.create_n, self.seed = create_n, seed
        names = IN_TURN if strategy == "mix" else (strategy,)
        if strategy in ("delete", "swap"):
            source = None  # they put in no words
        elif aug_type == "custom":
            dictionary = read_dictionary(custom_file)
            source = functools.partial(_Own, dictionary=dictionary, tokenizer=jieba_tokenizer(tuple(dictionary)))
        else:
            problems = Problems()
            with problems.collect():
                files = dataaug_files(aug_type)
            with problems.collect():
                model = _language_model(model_name, device) if aug_type == "mlm" else None
            problems.stop_if_any()
            source = functools.partial(_Dataaug, aug_type=aug_type, files=files, model=model)
        self.operations = [
            (source if name in ("substitute", "insert") else _Own)(name, aug_percent=aug_percent) for name in names
        ]

    def augment(self, text):
        """Up to `create_n` new texts, all different and none of them `text`; fewer, or none, where it has few words."""
        chance, found = random.Random(f"{self.seed}\t{text}"), {}
        running = [operation(text, chance) for operation in self.operations]
        first = chance.randrange(len(running))
        for turn in range(TRIES * self.create_n * len(running)):
            new = next(running[(first + turn) % len(running)], "").strip()
            if new and new != text:
                found[new] = True
            if len(found) == self.create_n:
                break
        return list(found)


# ----------------------------------------------------------------------------------------------- without any download


class _Own:
    """One strategy on split words: `operation(text, chance)` yields new texts, or ends where none can be made."""

    def __init__(self, name, aug_percent, dictionary=None, tokenizer=None):
        self.make, self.aug_percent = getattr(self, f"_{name}"), aug_percent
        self.dictionary, self.tokenizer = dictionary, tokenizer

    def __call__(self, text, chance):
        pieces = split_words(text, self.tokenizer)
        words = [i for i, piece in enumerate(pieces) if any(c.isalpha() for c in piece)]
        wanted = max(1, math.ceil(self.aug_percent * len(words)))
        # Taking out or moving a negation turns the meaning round, and the labels would be wrong.
        movable = [i for i in words if not _negates(pieces[i])]
        return self.make(pieces, words, movable, wanted, chance)

    def _delete(self, pieces, words, movable, wanted, chance):
        wanted = min(wanted, len(movable), len(words) - 1)
        while wanted > 0:
            gone = set(chance.sample(movable, wanted))
            # The space after a deleted word goes with it.
            yield "".join(
                piece for i, piece in enumerate(pieces) if i not in gone and not (piece.isspace() and i - 1 in gone)
            )

    def _swap(self, pieces, words, movable, wanted, chance):
        pairs, movable = [], set(movable)
        for left, right in zip(words, words[1:]):
            if left in movable and right in movable and "".join(pieces[left + 1 : right]).strip() == "":
                pairs.append((left, right))
        while pairs:
            new, moved = list(pieces), set()
            for left, right in chance.sample(pairs, len(pairs)):
                if left not in moved and right not in moved and len(moved) < 2 * wanted:
                    new[left], new[right] = pieces[right], pieces[left]
                    moved |= {left, right}
            yield "".join(new)

    def _substitute(self, pieces, words, movable, wanted, chance):
        for new, places in self._places(pieces, wanted, chance):
            for i in places:
                new[i] = chance.choice(self.dictionary[pieces[i]])
            yield "".join(new)

    def _insert(self, pieces, words, movable, wanted, chance):
        for new, places in self._places(pieces, wanted, chance):
            for i in places:
                pair = [pieces[i], chance.choice(self.dictionary[pieces[i]])]
                chance.shuffle(pair)
                new[i] = ("" if has_chinese(pieces[i]) else " ").join(pair)
            yield "".join(new)

    def _places(self, pieces, wanted, chance):
        known = [i for i, piece in enumerate(pieces) if piece in self.dictionary]
        while known:
            yield list(pieces), chance.sample(known, min(wanted, len(known)))


def _negates(word):
    return bool(NEGATIONS & {*word, word.lower()}) or word.lower().endswith(("n't", "n’t"))


def read_dictionary(path, name="--custom_file"):
    """A dictionary of words as {word: [other words]}. `name`: what a message calls the file."""
    if path is None:
        raise UserError(f"--aug_type custom needs --custom_file; {CUSTOM_HELP}")
    try:
        with open(path, encoding="utf-8-sig") as file:
            dictionary = json.load(file)
    except OSError as error:
        raise UserError(f"{name} {path}: {error.strerror}; {CUSTOM_HELP}") from error
    except ValueError as error:
        raise UserError(f"{name} {path}: {error}; {CUSTOM_HELP}, in UTF-8") from error
    if not isinstance(dictionary, dict) or not dictionary:
        raise UserError(f"{name} {path}: {CUSTOM_HELP}")
    for word, others in dictionary.items():
        if not (isinstance(others, list) and others and all(isinstance(w, str) and w.strip() for w in others)):
            raise UserError(f"{name} {path}: word {word!r}: {CUSTOM_HELP}")
        if word != "".join(word.split()) or not word or any(set(other) & set("\t\r\n") for other in others):
            raise UserError(
                f"{name} {path}: word {word!r}: a word holds no space, and what replaces it no tab or line break"
            )
    return dictionary


# -------------------------------------------------------------------------------------------------------- PaddleNLP's


class _Dataaug:
    """A class of paddlenlp.dataaug on files that are here, used like `_Own`."""

    def __init__(self, name, aug_percent, aug_type, files, model):
        from paddlenlp import dataaug

        class Local({"substitute": dataaug.WordSubstitute, "insert": dataaug.WordInsert}[name]):
            def _load_file(self, mode):
                return files[mode]

            def _generate_sequence(self, words, changes, *side):
                # WordInsert (2.8) forgets on which side of the word its mask stood before it puts the prediction there.
                if side and side[0] in (0, 1):
                    self.side = side
                return super()._generate_sequence(words, changes, *(side and self.side))

        try:
            # "random" loads neither a dictionary nor a model.
            self.engine = Local("random" if model else aug_type, create_n=1, aug_percent=aug_percent)
        except Exception as error:  # it does nothing here but read the files
            paths = ", ".join(files.values())
            raise UserError(f"dataaug cannot read its files ({error!r}); delete the damaged one of {paths}") from error
        self.engine.stop_words = set(self.engine.stop_words)  # it looks each word up in a list
        self.window, self.refused = None, ()
        if model:
            self.engine.type, (self.engine.mlm_model, self.engine.mlm_tokenizer) = "mlm", model
            # The text and a word's worth of masks have to fit.
            self.window = min(WINDOW, getattr(model[0].config, "max_position_embeddings", 512) // 2 - 2)
            self.refused = ("##", *model[1].all_special_tokens)

    def __call__(self, text, chance):
        width = self.window or len(text)
        while True:
            start = chance.randrange(max(1, len(text) - width + 1))
            part = text[start : start + width]
            start, part = start + len(part) - len(part.lstrip()), part.strip()  # dataaug strips it, too
            with _seeded(chance.randrange(2**32)):
                (found,) = self.engine.augment(part)
            if not found and width >= len(text):
                return  # it has tried often enough itself
            if not found or any(token in found[0] and token not in part for token in self.refused):
                yield ""
            else:
                yield text[:start] + found[0] + text[start + len(part) :]


@contextlib.contextmanager
def _seeded(seed):
    """The global generators, which dataaug uses, seeded for the block."""
    import numpy as np

    before = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])


def _language_model(name, device):
    """A masked language model and its tokenizer, by PaddleNLP's name or from a folder, on the device."""
    from text_cls.neural.model import load_masked_lm, model_name_problem, paddle_device_problem, set_device

    found = [problem for problem in (paddle_device_problem(device), model_name_problem(name)) if problem]
    if found:
        raise UserError("\n  ".join(found))
    set_device(device)
    model, tokenizer = load_masked_lm(name)
    model.eval()
    return model, tokenizer


def dataaug_files(aug_type):
    """The files that dataaug needs as {its name: path}, fetched where they are not here."""
    from text_cls.neural.compat import import_paddle

    import_paddle()
    from paddlenlp.utils.env import DATA_HOME

    names = ["stop_words", "vocab"] + ([] if aug_type == "mlm" else [f"word_{aug_type}"])
    paths = {name: os.path.join(DATA_HOME, "WordSubstitute", os.path.basename(FILES[name][1])) for name in names}
    missing = [name for name in names if not os.path.exists(paths[name])]
    try:
        for name in list(missing):
            _download(FILES[name], paths[name])
            missing.remove(name)
    except (OSError, http.client.HTTPException) as error:
        lines = [
            f"words of type {aug_type} need files of PaddleNLP that are not here and could not be downloaded",
            f"  reason: {str(error).strip('<>')}",
            "  remedy: fetch each with a browser and save it under the name given:",
            *(f"    {FILES[name][1]} as {paths[name]}" for name in missing),
            "  without them: --aug_strategy delete or swap; aug.py takes words of your own, too: --aug_type custom",
        ]
        raise UserError("\n".join(lines)) from error
    strange = [name for name in names if _md5(paths[name]) != FILES[name][0]]
    if strange:
        logger.info("Not PaddleNLP's own files, used as they are: %s", ", ".join(paths[name] for name in strange))
    for name in set(strange) & {f"word_{aug_type}"}:
        read_dictionary(paths[name], "dictionary")
    return paths


def _download(source, path):
    """Writes the file of (MD5, URL) to the path, whole or not at all. Raises OSError."""
    digest, url = source
    logger.info("Downloading %s", url)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer, open(temporary, "wb") as file:
            shutil.copyfileobj(answer, file)
        if _md5(temporary) != digest:
            raise OSError(f"{url} gave something else than the file that PaddleNLP expects (MD5 {digest})")
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            os.remove(temporary)


def _md5(path):
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
