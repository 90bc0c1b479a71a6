"""Makes new texts from existing ones by changing words: substitute, insert, delete, swap, or all four in turn (mix).

Words come from PaddleNLP's dictionaries, a masked language model (`paddlenlp.dataaug`, for Chinese) or the user's own
dictionary. Deleting, swapping and the user's dictionary are implemented here: dataaug downloads a vocabulary and stop
words even for these, ignores Latin words, and uses the global random generators.
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
from text_cls.language import N_, reason_of, tr
from words import has_chinese, jieba_tokenizer, split_words

STRATEGIES = ("substitute", "insert", "delete", "swap", "mix")
TYPES = ("synonym", "homonym", "mlm", "custom")
IN_TURN = ("substitute", "insert", "delete", "swap")  # what "mix" does
MLM_NAME = "ernie-1.0-large-zh-cw"  # dataaug's own default
TRIES = 5  # per requested text, as in dataaug
NEGATIONS = frozenset("不没未无非别莫勿") | {"not", "no", "never", "none", "nor", "without", "cannot"}
CUSTOM_HELP = N_('expected JSON of the form {"word": ["other word", "another"]}')

# Files of paddlenlp.dataaug (2.8): {its name: (MD5, URL)}. It keeps one copy per class; here both classes share one.
URL = "https://bj.bcebos.com/paddlenlp/data"
FILES = {
    "stop_words": ("a4a76df756194777ca18cd788231b474", f"{URL}/stopwords.txt"),
    "vocab": ("25c2d41aec5a6d328a65c1995d4e4c2e", f"{URL}/baidu_encyclopedia_w2v_vocab.json"),
    "word_synonym": ("aaa9f864b4af4123bce4bf138a5bfa0d", f"{URL}/word_synonym.json"),
    "word_homonym": ("a578c04201a697e738f6a1ad555787d5", f"{URL}/word_homonym.json"),
}
TIMEOUT = 10  # seconds without an answer; Paddle's own download has no limit
WINDOW = 128  # characters of a longer text that a masked language model sees


class Augmenter:
    """Makes new texts. The result depends only on the text, the settings and the seed, not on earlier texts.

    Args:
        strategy: one of STRATEGIES.
        aug_type: one of TYPES, the source of words for "substitute", "insert" and "mix". "mlm" always changes one word.
        create_n: new texts per text.
        aug_percent: share of a text's words to change, above 0 and up to 1; at least one word is changed, and two by
            "swap", which changes an even number.
        custom_file: for "custom", a JSON file {"word": ["other word", ...]}.
        model_name, device: for "mlm", the PaddleNLP name or folder of a masked language model, and its device.

    Raises:
        UserError: a file is missing and unavailable; the message gives its address and where to save it.
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
            source = None  # they add no words
        elif aug_type == "custom":
            dictionary = read_dictionary(custom_file)
            source = functools.partial(_OwnWords, dictionary=dictionary, tokenizer=jieba_tokenizer(tuple(dictionary)))
        else:
            problems = Problems()
            with problems.collect():
                files = dataaug_files(aug_type)
            with problems.collect():
                model = _language_model(model_name, device) if aug_type == "mlm" else None
            problems.stop_if_any()
            source = functools.partial(_Dataaug, aug_type=aug_type, files=files, model=model)
        self.operations = [
            (source if name in ("substitute", "insert") else _OwnWords)(name, aug_percent=aug_percent) for name in names
        ]

    def augment(self, text):
        """Up to `create_n` distinct new texts, none equal to `text`; fewer or none if it has too few words."""
        rng, found = random.Random(f"{self.seed}\t{text}"), {}
        running = [operation(text, rng) for operation in self.operations]
        first = rng.randrange(len(running))
        for turn in range(TRIES * self.create_n * len(running)):
            new = next(running[(first + turn) % len(running)], "").strip()
            if new and new != text:
                found[new] = True
            if len(found) == self.create_n:
                break
        return list(found)


# ------------------------------------------------------------------------------------------------- without a download


class _OwnWords:
    """One strategy on split words: `operation(text, rng)` yields new texts, and ends when there are none."""

    def __init__(self, name, aug_percent, dictionary=None, tokenizer=None):
        self.make, self.aug_percent = getattr(self, f"_{name}"), aug_percent
        self.dictionary, self.tokenizer = dictionary, tokenizer

    def __call__(self, text, rng):
        pieces = split_words(text, self.tokenizer)
        words = [i for i, piece in enumerate(pieces) if any(c.isalpha() for c in piece)]
        wanted = max(1, math.ceil(self.aug_percent * len(words)))
        # Without its negation, or with it elsewhere, a text means the opposite, and its labels would be wrong.
        movable = [i for i in words if not _negates(pieces[i])]
        return self.make(pieces, words, movable, wanted, rng)

    def _delete(self, pieces, words, movable, wanted, rng):
        wanted = min(wanted, len(movable), len(words) - 1)
        while wanted > 0:
            deleted = set(rng.sample(movable, wanted))
            # The space after a deleted word is deleted too.
            yield "".join(
                piece
                for i, piece in enumerate(pieces)
                if i not in deleted and not (piece.isspace() and i - 1 in deleted)
            )

    def _swap(self, pieces, words, movable, wanted, rng):
        pairs, movable, most = [], set(movable), max(2, wanted)  # two words change places
        for left, right in zip(words, words[1:]):
            if left in movable and right in movable and "".join(pieces[left + 1 : right]).strip() == "":
                pairs.append((left, right))
        while pairs:
            new, moved = list(pieces), set()
            for left, right in rng.sample(pairs, len(pairs)):
                if left not in moved and right not in moved and len(moved) + 2 <= most:
                    new[left], new[right] = pieces[right], pieces[left]
                    moved |= {left, right}
            yield "".join(new)

    def _substitute(self, pieces, words, movable, wanted, rng):
        for new, places in self._places(pieces, wanted, rng):
            for i in places:
                new[i] = rng.choice(self.dictionary[pieces[i]])
            yield "".join(new)

    def _insert(self, pieces, words, movable, wanted, rng):
        for new, places in self._places(pieces, wanted, rng):
            for i in places:
                pair = [pieces[i], rng.choice(self.dictionary[pieces[i]])]
                rng.shuffle(pair)
                new[i] = ("" if has_chinese(pieces[i]) else " ").join(pair)
            yield "".join(new)

    def _places(self, pieces, wanted, rng):
        known = [i for i, piece in enumerate(pieces) if piece in self.dictionary]
        while known:
            yield list(pieces), rng.sample(known, min(wanted, len(known)))


def _negates(word):
    return bool(NEGATIONS & {*word, word.lower()}) or word.lower().endswith(("n't", "n’t"))


def read_dictionary(path, name="--custom_file"):
    """Reads a dictionary {word: [other words]}. name: what messages call the file."""
    if path is None:
        raise UserError(tr("--aug_type custom needs --custom_file; {custom_help}", custom_help=tr(CUSTOM_HELP)))
    try:
        with open(path, encoding="utf-8-sig") as file:
            dictionary = json.load(file)
    except OSError as error:
        raise UserError(f"{name} {path}: {reason_of(error)}; {tr(CUSTOM_HELP)}") from error
    except ValueError as error:
        raise UserError(f"{name} {path}: {error}; {tr(CUSTOM_HELP)}, in UTF-8") from error
    if not isinstance(dictionary, dict) or not dictionary:
        raise UserError(f"{name} {path}: {tr(CUSTOM_HELP)}")
    for word, others in dictionary.items():
        if not (isinstance(others, list) and others and all(isinstance(w, str) and w.strip() for w in others)):
            raise UserError(f"{name} {path}: word {word!r}: {tr(CUSTOM_HELP)}")
        if word != "".join(word.split()) or not word or any(set(other) & set("\t\r\n") for other in others):
            raise UserError(
                tr(
                    "{name} {path}: word {word!r}: a word must not contain spaces, nor its replacement tabs or line "
                    "breaks",
                    name=name,
                    path=path,
                    word=word,
                )
            )
    return dictionary


# ------------------------------------------------------------------------------------------------- PaddleNLP's dataaug


class _Dataaug:
    """A class of paddlenlp.dataaug on local files, used like `_OwnWords`."""

    def __init__(self, name, aug_percent, aug_type, files, model):
        from paddlenlp import dataaug

        class Local({"substitute": dataaug.WordSubstitute, "insert": dataaug.WordInsert}[name]):
            def _load_file(self, mode):
                return files[mode]

            def _generate_sequence(self, words, changes, *side):
                # WordInsert (2.8) forgets on which side of the word the mask was when it inserts the prediction.
                if side and side[0] in (0, 1):
                    self.side = side
                return super()._generate_sequence(words, changes, *(side and self.side))

        try:
            # "random" loads neither a dictionary nor a model.
            self.engine = Local("random" if model else aug_type, create_n=1, aug_percent=aug_percent)
        except Exception as error:  # all it does here is read the files
            paths = ", ".join(files.values())
            raise UserError(
                tr(
                    "dataaug cannot read its files ({error!r}); delete the damaged one among {paths}",
                    error=error,
                    paths=paths,
                )
            ) from error
        self.engine.stop_words = set(self.engine.stop_words)  # dataaug looks each word up in a list
        self.window, self.refused = None, ()
        if model:
            self.engine.type, (self.engine.mlm_model, self.engine.mlm_tokenizer) = "mlm", model
            # The text and the masks of one word have to fit.
            self.window = min(WINDOW, getattr(model[0].config, "max_position_embeddings", 512) // 2 - 2)
            self.refused = ("##", *model[1].all_special_tokens)

    def __call__(self, text, rng):
        width = self.window or len(text)
        while True:
            start = rng.randrange(max(1, len(text) - width + 1))
            part = text[start : start + width]
            start, part = start + len(part) - len(part.lstrip()), part.strip()  # dataaug strips it too
            with _seeded(rng.randrange(2**32)):
                (found,) = self.engine.augment(part)
            if not found and width >= len(text):
                return  # dataaug itself has tried often enough
            if not found or any(token in found[0] and token not in part for token in self.refused):
                yield ""
            else:
                yield text[:start] + found[0] + text[start + len(part) :]


@contextlib.contextmanager
def _seeded(seed):
    """Seeds the global random generators, which dataaug uses, within the block."""
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
    """(model, tokenizer): a masked language model on the device. name: PaddleNLP's name of it, or its folder."""
    from text_cls.neural.model import load_masked_lm, model_name_problem, paddle_device_problem, set_device

    found = [problem for problem in (paddle_device_problem(device), model_name_problem(name)) if problem]
    if found:
        raise UserError("\n  ".join(found))
    set_device(device)
    model, tokenizer = load_masked_lm(name)
    model.eval()
    return model, tokenizer


def dataaug_files(aug_type):
    """{name: path} of the files that dataaug needs; missing ones are downloaded."""
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
            tr(
                "--aug_type {aug_type} needs files of PaddleNLP that are missing and could not be downloaded",
                aug_type=aug_type,
            ),
            tr("  reason: {reason}", reason=str(error).strip("<>")),
            tr("  remedy: download each with a browser and save it under its path:"),
            *(tr("    {url} as {file}", url=FILES[name][1], file=paths[name]) for name in missing),
            tr("  without them: --aug_strategy delete or swap; aug.py also takes your own words: --aug_type custom"),
        ]
        raise UserError("\n".join(lines)) from error
    changed = [name for name in names if _md5(paths[name]) != FILES[name][0]]
    if changed:
        logger.info("Using files that differ from PaddleNLP's: %s", ", ".join(paths[name] for name in changed))
    for name in set(changed) & {f"word_{aug_type}"}:
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
            raise OSError(
                tr(
                    "{url} sent a different file from the one that PaddleNLP expects (MD5 {digest})",
                    url=url,
                    digest=digest,
                )
            )
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
