"""Hugging Face's tokenizers besides vocab.txt, and encoders that have them: XLM-R, and BERT with XLM-R's tokenizer."""

import json
import shutil

import numpy as np
import pytest
import sentencepiece
import tokenizers
from conftest import ROOT, lines_of, load_script
from families import save_as_checkpoint
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file
from test_hugging_face import CHARACTERS, CONFIG, WORDS, bert, hidden_states, random_weights, rust_tokenizer
from texts import HARD

from attribution import Explainer
from text_cls.neural import hugging_face
from text_cls.neural.hugging_face_tokenizers import load_tokenizer, open_tokenizer, sentencepiece_message
from text_cls.neural.model import load_pretrained
from text_cls.tokenization import load_tokenizer as load_served

FILES = ("tokenizer.json", "sentencepiece.bpe.model")
XLMR = {"intermediate_size": 128, "pad_token_id": 1, "layer_norm_eps": 1e-5, "type_vocab_size": 1}


@pytest.fixture(scope="module")
def xlmr_files(tmp_path_factory):
    """Folder with both files of a small XLM-R tokenizer. tokenizer.json is made here, as transformers makes it."""
    folder = tmp_path_factory.mktemp("xlmr")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines_of(ROOT / "data" / "test.txt")),
        model_prefix=str(folder / "sentencepiece.bpe"),
        vocab_size=2600,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    path = folder / "sentencepiece.bpe.model"
    made = sentencepiece.SentencePieceProcessor(model_file=str(path))
    pieces = [(made.IdToPiece(i), made.GetScore(i)) for i in range(3, len(made))]
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *pieces, ("<mask>", 0.0)]
    charsmap = sentencepiece_message().FromString(path.read_bytes()).normalizer.precompiled_charsmap
    rust = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, unk_id=3))
    rust.normalizer = tokenizers.normalizers.Precompiled(charsmap)
    splits = [tokenizers.pre_tokenizers.WhitespaceSplit(), tokenizers.pre_tokenizers.Metaspace(prepend_scheme="always")]
    rust.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(splits)
    rust.post_processor = tokenizers.processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    rust.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", tokenizers.AddedToken("<mask>", lstrip=True)])
    rust.enable_truncation(8)  # multilingual-e5-small's has both
    rust.enable_padding(length=8)
    rust.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def xlmr(xlmr_files):
    """That tokenizer, of the library `tokenizers`."""
    rust = tokenizers.Tokenizer.from_file(str(xlmr_files / "tokenizer.json"))
    rust.no_truncation()
    rust.no_padding()
    return rust


@pytest.fixture(scope="module")
def make(xlmr_files, xlmr):
    """make(path, model_type, file, **config) -> Hugging Face folder of a small random model with XLM-R's tokenizer."""

    def call(path, kind, file="tokenizer.json", weights=None, **config):
        path.mkdir(parents=True)
        config = {**CONFIG, **(XLMR if kind == "xlm-roberta" else {}), "vocab_size": xlmr.get_vocab_size(), **config}
        (path / "config.json").write_text(json.dumps({**config, "model_type": kind}), encoding="utf-8")
        shutil.copy(xlmr_files / file, path)
        save_file(random_weights("", config) if weights is None else weights, path / "model.safetensors")
        return path

    return call


@pytest.fixture(scope="module", params=FILES)
def both(request, xlmr_files, tmp_path_factory):
    """(tokenizer that trains, the one that serves) of a folder with one of the two files."""
    folder = tmp_path_factory.mktemp("one")
    shutil.copy(xlmr_files / request.param, folder)
    trains = load_tokenizer(str(folder))
    saved = tmp_path_factory.mktemp("saved")
    trains.save_pretrained(saved)
    return open_tokenizer(str(saved)), load_served(str(saved))


def assert_same(both, rust, texts, max_length=1 << 20):
    trains, serves = both
    wanted = [rust.encode(text).ids for text in texts]
    wanted = [ids if len(ids) <= max_length else [*ids[: max_length - 1], 2] for ids in wanted]
    assert trains(texts, max_length=max_length, truncation=True)["input_ids"] == wanted
    assert [row.tolist() for row in serves.encode(texts, max_length)] == wanted


@pytest.mark.parametrize("max_length", [1 << 20, 7])
def test_ids_are_those_of_xlmr(both, xlmr, max_length):
    """In training and on a server, from either file."""
    rows = [line.partition("\t")[0] for line in lines_of(ROOT / "data" / "dev.txt")[:200]]
    assert_same(both, xlmr, [*rows, *HARD, "<s> a <mask>b", "１２３４ABC台风登陆"], max_length)


@given(texts=st.lists(st.text(CHARACTERS, max_size=40) | st.sampled_from(HARD), min_size=1, max_size=4))
def test_any_text_gets_the_ids_of_xlmr(both, xlmr, texts):
    assert_same(both, xlmr, texts, 24)


def test_ids_are_those_of_sentencepiece_moved_by_one(both, xlmr_files):
    """As in fairseq. Characters beside each other that are unknown are one token in both."""
    model = sentencepiece.SentencePieceProcessor(model_file=str(xlmr_files / "sentencepiece.bpe.model"))
    texts = [line.partition("\t")[0] for line in lines_of(ROOT / "data" / "dev.txt")[:200]]
    texts += ["", "ＡＢＣ１２３，。！　全角", "台风登陆，学校停课 2024年", "a\tb\n c", "℃ ½ ﬁ"]
    for text, ids in zip(texts, both[0](texts)["input_ids"]):
        assert ids == [0, *(i + 1 if i else 3 for i in model.EncodeAsIds(text)), 2], text


def test_one_text_and_its_parts(both):
    trains, serves = both
    assert trains("台风", max_length=2, truncation=True)["input_ids"] == [0, 2]
    assert (trains.pad_token_id, trains.unk_token_id, serves.pad_id, serves.unk_id) == (1, 3, 1, 3)
    assert serves.specials["mask_token"] == "<mask>" and serves.vocabulary["<mask>"] == len(trains) - 1


@pytest.mark.parametrize(("kind", "prefix"), [("xlm-roberta", ""), ("xlm-roberta", "roberta."), ("bert", "")])
def test_hidden_states_with_the_tokenizer_of_xlmr(make, xlmr, tmp_path, kind, prefix):
    """XLM-R's positions start at number 2. multilingual-e5-small is a BERT whose config.json has BERT's padding."""
    config = {**CONFIG, **(XLMR if kind == "xlm-roberta" else {}), "vocab_size": xlmr.get_vocab_size()}
    weights = random_weights("", config)
    path = make(tmp_path / "x", kind, weights={prefix + name: value for name, value in weights.items()})
    model, tokenizer = hugging_face.load_encoder(str(path))
    model.eval()
    assert model.config.pad_token_id == 1
    texts = ["台风登陆，学校停课", "Running 25℃", "", "<s> x <mask>", "ＡＢ１２"]
    states, ids = hidden_states(model, tokenizer, texts)
    for text, state, row in zip(texts, states, ids):
        expected = xlmr.encode(text).ids
        assert row[: len(state)].tolist() == expected
        first, epsilon = (2, 1e-5) if kind == "xlm-roberta" else (0, 1e-12)
        assert np.abs(state - bert(weights, expected, first, epsilon)).max() < 1e-4, text


def test_wordpiece_of_a_tokenizer_json_alone(tmp_path):
    """With settings that PaddleNLP's tokenizer does not have."""
    path = tmp_path / "x"
    path.mkdir()
    (path / "config.json").write_text(json.dumps({**CONFIG, "vocab_size": len(WORDS)}), encoding="utf-8")
    (path / "tokenizer_config.json").write_text('{"mask_token": {"content": "[MASK]"}}', encoding="utf-8")
    rust = rust_tokenizer()
    rust.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True, strip_accents=False)
    rust.save(str(path / "tokenizer.json"))
    weights = random_weights()
    save_file(weights, path / "model.safetensors")
    model, tokenizer = hugging_face.load_encoder(str(path))
    model.eval()
    text = "Running CAFÉ 25℃ é [MASK]"
    (state,), ids = hidden_states(model, tokenizer, [text])
    assert ids[0].tolist() == rust.encode(text).ids and 1 in ids[0]
    assert np.abs(state - bert(weights, ids[0])).max() < 1e-4
    assert tokenizer.specials["mask_token"] == "[MASK]" and tokenizer.pad_token_id == 0


def test_settings_that_only_tokenizer_json_reproduces(tmp_path):
    path = tmp_path / "x"
    path.mkdir()
    (path / "vocab.txt").write_text("".join(f"{word}\n" for word in WORDS), encoding="utf-8")
    (path / "tokenizer_config.json").write_text('{"strip_accents": false}', encoding="utf-8")
    rust = rust_tokenizer()
    rust.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True, strip_accents=False)
    rust.save(str(path / "tokenizer.json"))
    assert load_tokenizer(str(path))("é")["input_ids"] == [2, 1, 3]


def test_the_epsilon_of_the_layer_norms_is_kept(make, tmp_path):
    """PaddleNLP's ERNIE always takes 1e-12; Hugging Face's ERNIE 3.0 has 1e-5."""
    from paddle.nn import LayerNorm

    model, tokenizer = load_pretrained(str(make(tmp_path / "x", "ernie", layer_norm_eps=1e-3)), 3)
    for part in (model, tokenizer):
        part.save_pretrained(str(tmp_path / "saved"))
    opened, _ = load_pretrained(str(tmp_path / "saved"), 3)
    for each in (model, opened):
        assert {layer._epsilon for layer in each.sublayers() if isinstance(layer, LayerNorm)} == {1e-3}


def test_the_head_of_an_xlmr_is_new(make, xlmr, tmp_path, caplog):
    weights = random_weights("roberta.", {**CONFIG, **XLMR, "vocab_size": xlmr.get_vocab_size()})
    weights |= {f"classifier.{name}.weight": np.zeros((32, 32), np.float32) for name in ("dense", "out_proj")}
    weights = {name: value for name, value in weights.items() if "pooler" not in name}
    with caplog.at_level("INFO"):
        load_pretrained(str(make(tmp_path / "x", "xlm-roberta", weights=weights)), 32)
    new = "ernie_m.pooler.dense.weight, ernie_m.pooler.dense.bias, classifier.weight, classifier.bias"
    assert f"New, and to be trained: {new}" in caplog.text
    assert "Not used: classifier.dense.weight, classifier.out_proj.weight" in caplog.text


@pytest.mark.parametrize(("kind", "flags"), [("xlm-roberta", ["--multilingual"]), ("bert", [])])
def test_a_checkpoint_and_its_bundle_have_the_ids_of_xlmr(make, xlmr, run, tmp_path, kind, flags):
    import build_repository
    import export_model
    from text_cls.serving.predictor import Predictor

    started = load_pretrained(str(make(tmp_path / "x", kind)), 5)
    checkpoint = save_as_checkpoint({kind: started}, kind, tmp_path / "checkpoint")
    bundle = tmp_path / "bundle"
    status, log = run(export_model.main, "--params_path", checkpoint, "--output_path", bundle, *flags)
    assert status == 0, log  # it compares tokens and logits of checkpoint and bundle
    texts = [line.partition("\t")[0] for line in lines_of(ROOT / "data" / "dev.txt")[:50]]
    expected = [xlmr.encode(text).ids for text in texts]
    expected = [ids if len(ids) <= 48 else [*ids[:47], 2] for ids in expected]
    found = Predictor(str(bundle), device="cpu").encode(texts)
    assert found.columns["input_ids"].tolist() == [number for ids in expected for number in ids]
    assert not (bundle / "vocab.txt").exists() and (bundle / "tokenizer.json").exists()
    status, log = run(build_repository.main, "--bundle", bundle, "--output", tmp_path / "models")
    assert status == 0 and (tmp_path / "models/tokenizer/1/bundle/tokenizer.json").exists(), log


def test_a_bert_with_the_vocabulary_of_xlmr_goes_back_to_hugging_face(make, xlmr, run, tmp_path):
    import export_model

    started = load_pretrained(str(make(tmp_path / "x", "bert")), 5)
    checkpoint = save_as_checkpoint({"bert": started}, "bert", tmp_path / "checkpoint")
    where = ("--params_path", checkpoint, "--output_path", tmp_path / "bundle", "--hf", tmp_path / "out")
    status, log = run(export_model.main, *where)
    assert status == 0, log  # it compares tokens and logits of folder and bundle
    assert not (tmp_path / "out/vocab.txt").exists()
    found = tokenizers.Tokenizer.from_file(str(tmp_path / "out/tokenizer.json"))
    assert found.encode("台风登陆 2024").ids == xlmr.encode("台风登陆 2024").ids


def test_training_from_an_xlmr(make, news, train, run, tmp_path):
    import predict

    status, log, checkpoint = train(news, "--model_name", make(tmp_path / "x", "xlm-roberta"))
    assert status == 0 and "New, and to be trained: classifier.weight, classifier.bias" in log, log
    flags = ("--dataset_dir", news, "--params_path", checkpoint, "--device", "cpu")
    status, log = run(predict.main, *flags, "--output_file", tmp_path / "predicted.txt")
    assert status == 0 and len(lines_of(tmp_path / "predicted.txt")) == 12, log


def test_a_retrieval_encoder_keeps_its_tokenizer(make, xlmr, tmp_path):
    from encoder import load_encoder

    parts = load_encoder(str(make(tmp_path / "x", "xlm-roberta")))
    for part in parts:
        part.save_pretrained(str(tmp_path / "saved"))
    _, tokenizer = load_encoder(str(tmp_path / "saved"))
    assert tokenizer("台风登陆 2024")["input_ids"] == xlmr.encode("台风登陆 2024").ids


def test_a_bert_with_the_vocabulary_of_xlmr_is_not_pruned(make, news, run, tmp_path):
    import prune

    started = load_pretrained(str(make(tmp_path / "x", "bert")), 5)
    checkpoint = save_as_checkpoint({"bert": started}, "bert", tmp_path / "checkpoint")
    shutil.copy(checkpoint / "label.txt", news)
    for name in ("train.txt", "dev.txt"):
        (news / name).write_text("足球\ta\n台风\tb,c\n", encoding="utf-8")
    where = ("--dataset_dir", news, "--params_dir", checkpoint, "--output_dir", tmp_path / "pruned", "--device", "cpu")
    status, log = run(prune.main, *where, "--max_seq_length", 32, "--width_mult_list", "1/2")
    assert status == 2 and "XLM-R's <s>, has number 0; export the model unpruned" in log, log


def test_words_are_explained(make, tmp_path):
    """As word_interpret.py does, whose words come from the spans of tokens."""
    model, tokenizer = load_pretrained(str(make(tmp_path / "x", "xlm-roberta")), 5)
    model.eval()
    found = Explainer(model, tokenizer, "ig", 32).explain("暴雨 ３ 学校，ﬁne", [0, 4])
    assert found.spans == [(0, 2), (3, 4), (5, 7), (7, 8), (8, 11)] and found.values.any(axis=0).all()


@given(text=st.text(CHARACTERS, max_size=30))
def test_spans_of_tokens_are_parts_of_the_text(both, text):
    spans = both[0].spans(text)
    assert len(spans) == len(both[0](text)["input_ids"]) - 2
    assert ((0 <= spans[:, 0]) & (spans[:, 0] < spans[:, 1]) & (spans[:, 1] <= len(text))).all()


# ------------------------------------------------------------------------------------------------------------- faults


def change_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


def three_ends(path):
    rust = tokenizers.Tokenizer.from_file(str(path / "tokenizer.json"))
    ends = [("<s>", 0), ("</s>", 2)]
    rust.post_processor = tokenizers.processors.TemplateProcessing("<s> $A </s> </s>", special_tokens=ends)
    rust.save(str(path / "tokenizer.json"))


def no_padding(path):
    text = (path / "tokenizer.json").read_text(encoding="utf-8")
    (path / "tokenizer.json").write_text(text.replace('"<pad>"', '"padding"'), encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: change_json(path / "config.json", model_type="roberta"), "a model of type 'roberta'; of Hugging"),
        (lambda path: change_json(path / "config.json", model_type=["bert"]), "a model of type ['bert']"),
        (lambda path: change_json(path / "config.json", intermediate_size=96), "a model with intermediate_size 96"),
        (lambda path: change_json(path / "config.json", pad_token_id=0), "a model with pad_token_id 0"),
        (lambda path: change_json(path / "config.json", hidden_act="gelu_new"), "a model with hidden_act 'gelu_new'"),
        (lambda path: (path / "tokenizer.json").unlink(), "has no tokenizer.json, no vocab.txt and no sentencepiece"),
        (lambda path: (path / "tokenizer.json").write_text("{}", "utf-8"), "tokenizer.json: "),
        (three_ends, "does not add one token before a text and one after it"),
        (no_padding, "tokenizer.json has no pad_token"),
    ],
)
def test_what_cannot_be_used_is_one_message(make, news, train, tmp_path, change, message):
    path = make(tmp_path / "x", "xlm-roberta")
    change(path)
    status, log, _ = train(news, "--model_name", path)
    assert status == 2 and message in log and str(path) in log and "Traceback" not in log, log


def test_a_sentencepiece_model_of_another_kind(tmp_path):
    def trained(**settings):
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(["a b c d e f g h"]),
            model_prefix=str(tmp_path / "sentencepiece.bpe"),
            vocab_size=18,
            hard_vocab_limit=False,
            minloglevel=2,
            **settings,
        )

    from text_cls.cli import UserError

    for settings in ({"model_type": "bpe"}, {"pad_id": 0, "unk_id": 1, "bos_id": 2, "eos_id": 3}):
        trained(**settings)
        with pytest.raises(UserError, match="is not XLM-R's; add the folder's tokenizer.json"):
            load_tokenizer(str(tmp_path))
    (tmp_path / "sentencepiece.bpe.model").write_bytes(b"\xff" * 100)
    with pytest.raises(UserError, match="is damaged; copy it again"):
        load_tokenizer(str(tmp_path))


# ------------------------------------------------------------------------------------------------------- transformers


@pytest.fixture(scope="module")
def benchmark():
    """benchmarks/hugging_face.py, if PyTorch and transformers are where `make bench-setup` puts them."""
    import sys

    if not (ROOT / ".venv-bench/bin/python").exists():
        pytest.skip(f"{ROOT / '.venv-bench'} does not exist: make bench-setup")
    project = sys.modules["project"] = load_script("benchmarks/project.py")
    return project.load("benchmarks/hugging_face.py")


@pytest.mark.parametrize(
    "name",
    ["bert, vocab.txt", "bert, tokenizer.json", "ernie, vocab.txt"]
    + ["xlm-roberta, tokenizer.json", "xlm-roberta, sentencepiece.bpe.model", "bert, XLM-R's tokenizer.json"],
)
def test_ids_and_hidden_states_are_those_of_transformers(benchmark, name):
    trained, served, largest = benchmark.compare_model(name, str(ROOT / ".venv-bench/bin/python"))
    assert trained == served == 0 and largest < 1e-4
