"""Small models of each family with random weights, saved as PaddleNLP saves them."""

from pathlib import Path

from conftest import ROOT

from text_cls.decision import Decision
from text_cls.neural.checkpoint import Checkpoint, save_checkpoint
from text_cls.rows import Labels


def save_bert(folder, vocab):
    from paddlenlp.transformers import BertConfig, BertModel, BertTokenizer

    BertModel(BertConfig(vocab_size=len(vocab), **SMALL)).save_pretrained(folder)
    BertTokenizer(str(Path(folder, "vocab.txt"))).save_pretrained(folder)


def save_roberta(folder, vocab):
    from paddlenlp.transformers import RobertaChineseTokenizer, RobertaConfig, RobertaModel

    RobertaModel(RobertaConfig(vocab_size=len(vocab), **SMALL)).save_pretrained(folder)
    RobertaChineseTokenizer(str(Path(folder, "vocab.txt"))).save_pretrained(folder)


def save_ernie(folder, vocab):
    from paddlenlp.transformers import ErnieConfig, ErnieModel, ErnieTokenizer

    ErnieModel(ErnieConfig(vocab_size=len(vocab), **SMALL)).save_pretrained(folder)
    ErnieTokenizer(str(Path(folder, "vocab.txt"))).save_pretrained(folder)


def save_ernie_m(folder, vocab):
    """An ERNIE-M with a SentencePiece model trained here."""
    from paddlenlp.transformers import ErnieMConfig, ErnieMModel

    texts = (ROOT / "data" / "test.txt").read_text(encoding="utf-8").splitlines()
    tokenizer = ernie_m_tokenizer(folder, texts)
    config = ErnieMConfig(vocab_size=len(tokenizer.vocab), **{**SMALL, "pad_token_id": 1})
    ErnieMModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def ernie_m_tokenizer(folder, texts, **settings):
    """PaddleNLP's ERNIE-M tokenizer with a SentencePiece model of these texts, whose files are in the folder."""
    import sentencepiece
    from paddlenlp.transformers import ErnieMTokenizer

    prefix = str(Path(folder, "sentencepiece.bpe"))
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_prefix=prefix, vocab_size=2600, minloglevel=2, hard_vocab_limit=False
    )
    processor = sentencepiece.SentencePieceProcessor(model_file=f"{prefix}.model")
    pieces = [
        "[CLS]",
        "[PAD]",
        "[SEP]",
        "[UNK]",
        "[MASK]",
        *(processor.id_to_piece(i) for i in range(3, len(processor))),
    ]
    Path(folder, "vocab.txt").write_text("".join(f"{piece}\n" for piece in pieces), encoding="utf-8")
    return ErnieMTokenizer(str(Path(folder, "vocab.txt")), f"{prefix}.model", **settings)


SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": 0,
}
FAMILIES = {"ernie": save_ernie, "ernie_m": save_ernie_m, "bert": save_bert, "roberta": save_roberta}


def save_as_checkpoint(families, family, folder):
    """Writes a checkpoint with five labels from a small model of a family. Returns its folder."""
    model, tokenizer = families[family]
    labels = Labels(["a", "a##x", "b", "b##x", "c"])
    run = {"arguments": {"max_seq_length": 48}}
    save_checkpoint(str(folder), Checkpoint(model, tokenizer, labels, Decision(), run))
    return folder
