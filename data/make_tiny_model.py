"""Create a tiny ERNIE with random weights, to try the pipeline without a download.

    python data/make_tiny_model.py                                  # writes data/tiny-ernie
    python train.py --dataset_dir data --model_name data/tiny-ernie --device cpu --learning_rate 1e-3

It is not pretrained: its vocabulary is the characters of the training rows, and it learns only from these rows.
"""

import argparse
import os
import sys
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from text_cls.argument_parser import ArgumentParser
from text_cls.cli import command, fraction, non_negative_int, positive_int
from text_cls.files import atomic_folder
from text_cls.language import tr
from text_cls.locks import write_lock
from text_cls.rows import read_texts

SPECIAL = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]"]


def parse_args(argv=None):
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--output_dir", default=str(HERE / "tiny-ernie"), help="output folder (data/tiny-ernie)")
    parser.add_argument(
        "--texts",
        nargs="+",
        default=[str(HERE / "train.txt"), str(HERE / "multi_label" / "train.txt")],
        help="files whose characters form the vocabulary (the example rows)",
    )
    parser.add_argument("--hidden_size", type=positive_int, default=128, help="width of the model (%(default)s)")
    parser.add_argument("--num_hidden_layers", type=positive_int, default=1, help="number of layers (%(default)s)")
    parser.add_argument(
        "--num_attention_heads", type=positive_int, default=4, help="attention heads per layer (%(default)s)"
    )
    parser.add_argument(
        "--intermediate_size", type=positive_int, default=256, help="width of feed-forward layers (%(default)s)"
    )
    parser.add_argument("--dropout", type=fraction(), default=0.1, help="dropout rate (%(default)s)")
    parser.add_argument("--seed", type=non_negative_int, default=3, help="random seed of the weights (%(default)s)")
    parser.add_argument("--masked_lm", action="store_true", help="add a masked-language head, for few-shot/ (off)")
    return parser.parse_args(argv)


def character_vocabulary(paths):
    """Special tokens, the characters of the texts, most frequent first, and pieces of Latin words and numbers."""
    characters = Counter()
    for path in paths:
        for _, text in read_texts(path):
            characters.update(character for character in text.lower() if not character.isspace())
    latin = "abcdefghijklmnopqrstuvwxyz0123456789"
    ordered = dict.fromkeys([*(character for character, _ in characters.most_common()), *latin])
    return [*SPECIAL, *ordered, *(f"##{character}" for character in latin)]


def make(args):
    """Writes the model."""
    vocabulary = character_vocabulary(args.texts)
    from text_cls.neural.compat import import_paddle

    paddle = import_paddle()
    from paddlenlp.transformers import ErnieConfig, ErnieForMaskedLM, ErnieModel, ErnieTokenizer

    paddle.set_device("cpu")
    paddle.seed(args.seed)
    config = ErnieConfig(
        vocab_size=len(vocabulary),
        hidden_size=args.hidden_size,
        num_hidden_layers=args.num_hidden_layers,
        num_attention_heads=args.num_attention_heads,
        intermediate_size=args.intermediate_size,
        hidden_dropout_prob=args.dropout,
        attention_probs_dropout_prob=args.dropout,
        max_position_embeddings=2048,
        initializer_range=0.1,  # BERT's 0.02 suits 768 dimensions; with 128, [CLS] would hardly see the other tokens
        type_vocab_size=4,
        task_type_vocab_size=3,
    )
    with atomic_folder(args.output_dir) as folder:
        with open(os.path.join(folder, "vocab.txt"), "w", encoding="utf-8", newline="\n") as file:
            file.writelines(f"{token}\n" for token in vocabulary)
        ErnieTokenizer(os.path.join(folder, "vocab.txt")).save_pretrained(folder)
        (ErnieForMaskedLM if args.masked_lm else ErnieModel)(config).save_pretrained(folder)
    print(tr("{output_dir}: a tiny ERNIE with random weights, to try the pipeline", output_dir=args.output_dir))


@command
def main(argv=None):
    args = parse_args(argv)
    with write_lock(args.output_dir):
        make(args)


if __name__ == "__main__":
    sys.exit(main())
