"""Models of true dimensions with random weights, and texts of the public sets: for benchmarks of speed."""

import numpy as np

from project import DATA, load

SEED = 3  # for the weights, and for the choice of texts
BIAS = -0.2  # of each label's logit: a text then has a few labels, not half of them


def dimensions_and_tokenizer(folder, model, files):
    """The configuration of one of PaddleNLP's models, and a tokenizer for the characters of the files.

    The vocabulary, `folder`/vocab.txt, is filled up to the model's true size. Import Paddle first.
    """
    from paddlenlp.transformers import ErnieConfig, ErnieModel, ErnieTokenizer

    vocabulary = load("data/make_tiny_model.py").character_vocabulary([str(file) for file in files])
    config = ErnieConfig(**ErnieModel.pretrained_init_configuration[model])
    vocabulary += [f"[unused{i}]" for i in range(config.vocab_size - len(vocabulary))]
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in vocabulary), encoding="utf-8")
    return config, ErnieTokenizer(str(folder / "vocab.txt"))


def random_checkpoint(folder, model, sets, max_seq_length):
    """A checkpoint in `folder`/checkpoint with the dimensions of one of PaddleNLP's models and 74 labels.

    The vocabulary has the characters of the sets' train.txt.
    """
    from text_cls.neural.compat import import_paddle

    import_paddle().seed(SEED)
    from paddlenlp.transformers import ErnieForSequenceClassification

    from text_cls.decision import Decision
    from text_cls.neural.checkpoint import Checkpoint, save_checkpoint
    from text_cls.rows import Labels

    config, tokenizer = dimensions_and_tokenizer(folder, model, [DATA / name / "train.txt" for name in sets])
    labels = Labels([f"label {i}" for i in range(74)])
    config.num_labels = len(labels)
    network = ErnieForSequenceClassification(config)
    network.classifier.bias.set_value(np.full(len(labels), BIAS, dtype=np.float32))
    network.eval()
    run = {"arguments": {"max_seq_length": max_seq_length}}
    checkpoint = Checkpoint(network, tokenizer, labels, Decision(), run)
    save_checkpoint(str(folder / "checkpoint"), checkpoint)
    return checkpoint


def random_bert(config, num_labels):
    """A classifier of transformers on PyTorch. config: dimensions, from a config.json of PaddleNLP."""
    from transformers import BertConfig, BertForSequenceClassification

    names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    names += ("max_position_embeddings", "hidden_dropout_prob", "attention_probs_dropout_prob")
    dimensions = {name: config[name] for name in names}
    return BertForSequenceClassification(BertConfig(num_labels=num_labels, **dimensions))


def read_dev(name, rows):
    """`rows` texts of a set's dev.txt, drawn by seed, in the file's order."""
    from text_cls.rows import read_texts

    texts = [text for _, text in read_texts(str(DATA / name / "dev.txt"))]
    chosen = np.sort(np.random.default_rng(SEED).permutation(len(texts))[:rows])
    return [texts[i] for i in chosen]
