"""What benchmarks of speed share: models of true dimensions with random weights, and texts of the public sets."""

import os
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("TEXT_CLASSIFICATION_DATA", ROOT.parent / "shared" / "data"))
SEED = 3  # of the weights, and of which texts are read
BIAS = -0.2  # of each label's logit: a text then has a few labels, not half of them


def suite():
    """Makes the project's modules importable."""
    sys.path[:0] = [str(ROOT), str(ROOT / "data"), str(ROOT / "deploy" / "predictor")]


def random_checkpoint(folder, model, sets, max_seq_length):
    """A checkpoint in `folder`/checkpoint of the dimensions of a model of PaddleNLP's, with 74 labels.

    The vocabulary holds the characters of the sets' train.txt, and has the model's true size.
    """
    suite()
    from text_cls.neural.compat import import_paddle, use_old_ir

    use_old_ir()
    import_paddle().seed(SEED)
    from paddlenlp.transformers import ErnieConfig, ErnieForSequenceClassification, ErnieModel, ErnieTokenizer

    from make_tiny_model import character_vocabulary
    from text_cls.decision import Decision
    from text_cls.neural.checkpoint import Checkpoint, save_checkpoint
    from text_cls.rows import Labels

    vocabulary = character_vocabulary([str(DATA / name / "train.txt") for name in sets])
    config = ErnieConfig(**ErnieModel.pretrained_init_configuration[model])
    vocabulary += [f"[unused{i}]" for i in range(config.vocab_size - len(vocabulary))]
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in vocabulary), encoding="utf-8")
    labels = Labels([f"label {i}" for i in range(74)])
    config.num_labels = len(labels)
    network = ErnieForSequenceClassification(config)
    network.classifier.bias.set_value(np.full(len(labels), BIAS, dtype=np.float32))
    network.eval()
    run = {"arguments": {"max_seq_length": max_seq_length}}
    checkpoint = Checkpoint(network, ErnieTokenizer(str(folder / "vocab.txt")), labels, Decision(), run)
    save_checkpoint(str(folder / "checkpoint"), checkpoint)
    return checkpoint


def read_dev(name, rows):
    """So many texts of a set's dev.txt, drawn by seed, in the file's order."""
    suite()
    from text_cls.rows import read_texts

    texts = [text for _, text in read_texts(str(DATA / name / "dev.txt"))]
    chosen = np.sort(np.random.default_rng(SEED).permutation(len(texts))[:rows])
    return [texts[i] for i in chosen]


def processor():
    """The CPU's name."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
