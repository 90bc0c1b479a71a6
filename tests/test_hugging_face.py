"""Encoders from Hugging Face's folders, against a BERT in numpy and the tokenizer that Hugging Face uses, in Rust."""

import io
import json
import math
import os
import pickle
import sys
import types
import zipfile

import ml_dtypes
import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from text_cls.neural import hugging_face, hugging_face_tokenizers
from text_cls.neural.compat import import_paddle
from text_cls.neural.model import encode, load_pretrained, model_name_problem
from text_cls.tokenization import load_tokenizer

CONFIG = {
    "model_type": "bert",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 80,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
    "pad_token_id": 0,
}
WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *"abcdefghijklmnopqrstuvwxyz0123456789，。！？台风登陆学校停课℃￥→",
]
WORDS += [f"##{piece}" for piece in (*"abcdefghijklmnopqrstuvwxyz0123456789℃￥→", "ing")]
TEXTS = [
    "台风登陆，学校停课",
    "Running 25℃ →→ a￥b",
    "naïve CAFÉ [MASK] x",
    "",
    "αβγ ﬁne",
    "a" * 120,
    "￥100。。。",
    "\u2028a\x85b",
]


def random_weights(prefix="", config=CONFIG):
    """Weights of a BERT by Hugging Face's names."""
    random = np.random.default_rng(3)
    width, inner, tokens = config["hidden_size"], config["intermediate_size"], config.get("vocab_size", len(WORDS))
    shapes = {"word_embeddings": (tokens, width), "token_type_embeddings": (config["type_vocab_size"], width)}
    shapes |= {"position_embeddings": (config["max_position_embeddings"], width)}
    shapes = {f"embeddings.{name}.weight": shape for name, shape in shapes.items()}
    products = {"attention.self.query": (width, width), "attention.self.key": (width, width)}
    products |= {"attention.self.value": (width, width), "attention.output.dense": (width, width)}
    products |= {"intermediate.dense": (inner, width), "output.dense": (width, inner)}
    products = {f"encoder.layer.{i}.{name}": shape for i in range(2) for name, shape in products.items()}
    products["pooler.dense"] = (width, width)
    norms = [
        f"encoder.layer.{i}.{name}" for i in range(2) for name in ("attention.output.LayerNorm", "output.LayerNorm")
    ]
    shapes |= {f"{name}.weight": shape for name, shape in products.items()}
    shapes |= {f"{name}.bias": shape[:1] for name, shape in products.items()}
    shapes |= {f"{name}.{part}": (width,) for name in (*norms, "embeddings.LayerNorm") for part in ("weight", "bias")}
    return {prefix + name: random.normal(0, 0.4, shape).astype(np.float32) for name, shape in shapes.items()}


def bert(weights, ids, first=0, epsilon=1e-12):
    """Hidden states [tokens, width] of one row, as in Devlin et al. 2019 and Hugging Face's BertModel.

    first: number of the first position.
    """

    def linear(x, name):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon)
        return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    weights = {name: value.astype(np.float64) for name, value in weights.items()}
    x = weights["embeddings.word_embeddings.weight"][ids] + weights["embeddings.token_type_embeddings.weight"][0]
    x = norm(x + weights["embeddings.position_embeddings.weight"][first : first + len(ids)], "embeddings.LayerNorm")
    for i in range(CONFIG["num_hidden_layers"]):
        layer = f"encoder.layer.{i}."
        q, k, v = (linear(x, f"{layer}attention.self.{name}") for name in ("query", "key", "value"))
        heads = []
        for part in np.split(np.arange(CONFIG["hidden_size"]), CONFIG["num_attention_heads"]):
            scores = q[:, part] @ k[:, part].T / math.sqrt(len(part))
            share = np.exp(scores - scores.max(-1, keepdims=True))
            heads.append(share / share.sum(-1, keepdims=True) @ v[:, part])
        x = norm(
            x + linear(np.concatenate(heads, -1), f"{layer}attention.output.dense"),
            f"{layer}attention.output.LayerNorm",
        )
        inner = linear(x, f"{layer}intermediate.dense")
        inner = inner * 0.5 * (1 + np.vectorize(math.erf)(inner / math.sqrt(2)))
        x = norm(x + linear(inner, f"{layer}output.dense"), f"{layer}output.LayerNorm")
    return x


@pytest.fixture
def folder(tmp_path):
    """A Hugging Face folder of a small BERT with random weights."""
    return make_folder(tmp_path / "bert")


def make_folder(path, weights=None, lower=True, **config):
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps({**CONFIG, "vocab_size": len(WORDS), **config}), encoding="utf-8")
    (path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": lower}), encoding="utf-8")
    (path / "vocab.txt").write_text("".join(f"{word}\n" for word in WORDS), encoding="utf-8")
    save_file(random_weights() if weights is None else weights, path / "model.safetensors")
    return path


def rust_tokenizer(lower=True):
    """The tokenizer that transformers makes of such a folder."""
    model = tokenizers.models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]")
    made = tokenizers.Tokenizer(model)
    made.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=lower)
    made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    made.add_special_tokens(WORDS[:5])
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return made


def hidden_states(model, tokenizer, texts):
    """Hidden states of each text, in one padded batch."""
    paddle = import_paddle()
    encoded = encode(texts, tokenizer, model, CONFIG["max_position_embeddings"])
    batch = encoded.batch(np.arange(len(texts)))
    with paddle.no_grad():
        states = model(**{name: paddle.to_tensor(value) for name, value in batch.items()})[0].numpy()
    return [state[:length] for state, length in zip(states, encoded.lengths)], batch["input_ids"]


@pytest.mark.parametrize("prefix", ["", "bert."])
def test_hidden_states_are_those_of_bert(tmp_path, prefix):
    weights = random_weights()
    path = make_folder(tmp_path / "x", {prefix + name: value for name, value in weights.items()})
    model, tokenizer = hugging_face.load_encoder(str(path))
    model.eval()
    states, ids = hidden_states(model, tokenizer, TEXTS)
    rust = rust_tokenizer()
    for text, state, row in zip(TEXTS, states, ids):
        expected = rust.encode(text).ids[: len(state)]
        expected[-1] = 3  # a text that was cut ends with [SEP], too
        assert row[: len(state)].tolist() == expected, text
        assert np.abs(state - bert(weights, expected)).max() < 1e-4


@pytest.fixture(scope="module")
def tokenizer_pair(tmp_path_factory):
    """{lower: (PaddleNLP's tokenizer, the server's, Rust's)} for one vocabulary."""
    pairs = {}
    for lower in (True, False):
        path = make_folder(tmp_path_factory.mktemp("tokens") / "x", lower=lower)
        paddle = hugging_face_tokenizers.load_tokenizer(str(path))
        saved = path.parent / "saved"
        paddle.save_pretrained(saved)
        pairs[lower] = paddle, load_tokenizer(str(saved)), rust_tokenizer(lower)
    return pairs


CHARACTERS = st.sampled_from("台风学℃￥→×½aAzé25，。!$ \t\u3000ﬁΣ😀\u200b\xad〇²") | st.characters(codec="utf-8")


@given(st.text(CHARACTERS, max_size=40), st.booleans())
def test_ids_are_those_of_hugging_face(tokenizer_pair, text, lower):
    """Here and in the server. Rust knows another version of Unicode, so only characters are compared that it knows."""
    paddle, served, rust = tokenizer_pair[lower]
    ids = paddle(text)["input_ids"]
    assert served.encode([text], 512)[0].tolist() == ids
    if all(ord(char) < 0x2000 or char in "℃￥→台风学，。\u3000ﬁ😀\u200b〇" for char in text):
        assert rust.encode(text).ids == ids


def test_training_starts_from_the_folder_and_its_checkpoint_opens(news, train, run, folder, tmp_path):
    status, log, checkpoint = train(news, "--model_name", folder)
    assert status == 0, log
    assert f"{folder}: New, and to be trained: classifier.weight, classifier.bias" in log
    from text_cls.neural.checkpoint import open_checkpoint

    opened, _ = open_checkpoint(str(checkpoint), None, "cpu")
    from text_cls.neural.checkpoint import load_model

    load_model(opened, "cpu")
    assert opened.tokenizer.tokenize("25℃") == ["2", "##5", "##℃"]  # PaddleNLP's own would split off the sign


def test_a_name_is_found_in_the_caches(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "scope"))
    assert hugging_face.find("some/bert.zh") is None
    scope = make_folder(tmp_path / "scope" / "models" / "some" / "bert___zh")
    assert hugging_face.find("some/bert.zh") == str(scope)
    model = tmp_path / "hf" / "hub" / "models--some--bert.zh"
    for revision in ("aaa", "bbb"):
        make_folder(model / "snapshots" / revision)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("bbb", encoding="utf-8")
    assert hugging_face.find("some/bert.zh") == str(model / "snapshots" / "bbb")
    assert model_name_problem("some/bert.zh") is None and load_pretrained("some/bert.zh", 3)


def test_a_classifier_of_as_many_labels_is_used(tmp_path):
    head = {"classifier.weight": np.full((3, 32), 0.5, np.float32), "classifier.bias": np.arange(3, dtype=np.float32)}
    path = make_folder(tmp_path / "x", {**random_weights("bert."), **head})
    model, _ = load_pretrained(str(path), 3)
    assert model.classifier.bias.numpy().tolist() == [0, 1, 2] and (model.classifier.weight.numpy() == 0.5).all()
    model, _ = load_pretrained(str(path), 4)
    assert model.classifier.bias.shape == [4]


def test_a_folder_of_paddlenlp_is_not_taken_for_one(tmp_path, tiny_model):
    weights = {"ernie.encoder.layers.0.linear1.weight": np.zeros((2, 2), np.float32)}
    assert hugging_face.find(str(make_folder(tmp_path / "x", weights))) is None
    assert hugging_face.find(str(tiny_model)) is None


# ------------------------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: (path / "config.json").write_text('{"model_type": "gpt2"}', "utf-8"), "a model of type 'gpt2'"),
        (lambda path: (path / "config.json").write_text("[" * 100_000, "utf-8"), "copy the whole folder again"),
        (lambda path: (path / "vocab.txt").unlink(), "no vocab.txt and no sentencepiece"),
        (lambda path: (path / "model.safetensors").write_bytes(b"\xff" * 100), "cannot be read"),
        (lambda path: save_file({"x": np.zeros(1)}, path / "model.safetensors"), "the weights lack"),
        (
            lambda path: save_file(random_weights(config={**CONFIG, "hidden_size": 16}), path / "model.safetensors"),
            "has the shape",
        ),
        (
            lambda path: (path / "tokenizer_config.json").write_text('{"strip_accents": false}', "utf-8"),
            "strip_accents cannot",
        ),
    ],
)
def test_what_cannot_be_used_is_one_message(news, train, folder, change, message):
    change(folder)
    status, log, _ = train(news, "--model_name", folder)
    assert status == 2 and message in log and str(folder) in log and "Traceback" not in log, log


def test_few_shot_refuses_the_folder(train_prompt, folder):
    status, log = train_prompt("--do_train", "--model_name_or_path", folder)
    assert status == 2 and f"{folder}: a Hugging Face folder; here only PaddleNLP's masked language models work" in log


class Touch:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.system, (f"touch '{self.path}'",)


def test_a_pickle_of_weights_runs_nothing(news, train, folder, tmp_path):
    (folder / "model.safetensors").unlink()
    with zipfile.ZipFile(folder / "pytorch_model.bin", "w") as archive:
        archive.writestr(
            "archive/data.pkl", pickle.dumps({"embeddings.word_embeddings.weight": Touch(tmp_path / "ran")}, 2)
        )
    status, log, _ = train(news, "--model_name", folder)
    assert status == 2 and "posix.system" in log and "Traceback" not in log, log
    assert not (tmp_path / "ran").exists()


class Storage:
    """Stands for a tensor in a pickle as PyTorch writes it: its numbers are in a file of their own."""

    def __init__(self, value):
        self.value = value


class TorchPickler(pickle.Pickler):
    """Writes arrays as PyTorch writes its tensors."""

    def __init__(self, file, modules):
        super().__init__(file, 2)
        self.modules, self.storages = modules, []

    def persistent_id(self, value):
        if isinstance(value, Storage):
            self.storages.append(value.value)
            kind = getattr(
                self.modules["torch"], "BFloat16Storage" if value.value.dtype == np.uint16 else "FloatStorage"
            )
            return "storage", kind, str(len(self.storages) - 1), "cpu", value.value.size

    def reducer_override(self, value):
        if isinstance(value, np.ndarray):
            strides = tuple(stride // value.itemsize for stride in value.strides)
            rebuild = self.modules["torch._utils"]._rebuild_tensor_v2
            return rebuild, (Storage(value.ravel()), 0, value.shape, strides, False, None)
        return NotImplemented


@pytest.fixture
def torch_names(monkeypatch):
    """Modules with the names that a pickle of PyTorch has in it."""
    modules = {name: types.ModuleType(name) for name in ("torch", "torch._utils")}
    for module, name in (
        ("torch", "FloatStorage"),
        ("torch", "BFloat16Storage"),
        ("torch._utils", "_rebuild_tensor_v2"),
    ):
        made = type(name, (), {"__module__": module, "__qualname__": name})
        setattr(modules[module], name, made)
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return modules


@pytest.mark.parametrize("half", [False, True])
def test_weights_of_pytorch(tmp_path, monkeypatch, torch_names, half):
    weights, path = random_weights("bert."), make_folder(tmp_path / "x")
    if half:
        weights = {name: value.astype(ml_dtypes.bfloat16) for name, value in weights.items()}
    expected, _ = hugging_face.load_encoder(str(make_folder(tmp_path / "same", weights)))
    (path / "model.safetensors").unlink()
    file = io.BytesIO()
    pickler = TorchPickler(file, torch_names)
    pickler.dump({name: value.view(np.uint16) if half else value for name, value in weights.items()})
    with zipfile.ZipFile(path / "pytorch_model.bin", "w") as archive:
        archive.writestr("archive/data.pkl", file.getvalue())
        for i, storage in enumerate(pickler.storages):
            archive.writestr(f"archive/data/{i}", storage.tobytes())
    monkeypatch.undo()
    model, _ = hugging_face.load_encoder(str(path))
    for name, value in expected.state_dict().items():
        assert np.array_equal(model.state_dict()[name].numpy(), value.numpy()), name
