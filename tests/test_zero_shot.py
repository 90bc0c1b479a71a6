"""few-shot/zero_shot.py: bundles of label names alone, and of a head on a few rows, as every program reads them."""

import json
import os
import shutil

import numpy as np
import pytest
from conftest import ROOT, copy_dataset, lines_of, load_script, write_lines
from hypothesis import given
from hypothesis import strategies as st

import infer
from frozen_head import chosen_decision, out_of_fold
from label_similarity import calibration_of, label_index, load_centred, unit, zero_shot_decision
from serving import ask
from text_cls.bundle import open_bundle
from text_cls.cli import Problems, UserError, set_up_log
from text_cls.decision import Decision
from text_cls.rows import Labels, read_labels
from text_cls.search.embedded_index import EmbeddedIndex
from text_cls.search.label_scores import corpus_labels, label_scores
from text_cls.serving import open_predictor

script = load_script("few-shot/zero_shot.py")
predict = load_script("retrieval_based/predict.py")
evaluate = load_script("retrieval_based/evaluate.py")
SOURCES = {"news": ROOT / "data", "reviews": ROOT / "data/multi_label"}
QUICK = ("--device", "cpu", "--max_seq_length", 48)


def flags(dataset, encoder, folder, *more):
    return [
        str(word) for word in ("--dataset_dir", dataset, "--model_name", encoder, "--output_dir", folder, *QUICK, *more)
    ]


@pytest.fixture(scope="session")
def sentence_encoder(learner, tmp_path_factory):
    """Folder of a small ERNIE that records its pooling, as a sentence encoder does."""
    folder = shutil.copytree(learner, tmp_path_factory.mktemp("model") / "sentences")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "pooling": "mean"}), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def made(sentence_encoder, tmp_path_factory):
    """{(task, "zero" or "head"): (data set, bundle)}."""
    found = {}
    for task, source in SOURCES.items():
        dataset = copy_dataset(source, tmp_path_factory.mktemp("few") / "data", 60, 20, 40)
        for way, more in (("zero", ["--no-head"]), ("head", [])):
            folder = tmp_path_factory.mktemp(way) / "bundle"
            assert script.main(flags(dataset, sentence_encoder, folder, *more)) == 0
            found[task, way] = dataset, folder
    return found


@pytest.fixture
def zero_shot(run, sentence_encoder, tmp_path):
    """zero_shot(dataset, *flags, encoder=...) -> (status, log, bundle)."""

    def call(dataset, *more, encoder=sentence_encoder):
        status, log = run(script.main, *flags(dataset, encoder, tmp_path / "bundle", *more))
        return status, log, tmp_path / "bundle"

    return call


@pytest.fixture
def unlabelled(tmp_path):
    """A data set of label.txt and data.txt, without a labelled row."""
    dataset = copy_dataset(SOURCES["news"], tmp_path / "unlabelled", 0, 0, 40)
    for name in ("train.txt", "dev.txt"):
        os.remove(dataset / name)
    return dataset


# ------------------------------------------------------------------------------------------------------- one answer


def sets_by_paddle(dataset, encoder):
    """zero_shot.py's own label sets: Paddle's vectors, the index and the decision, without a bundle."""
    labels = read_labels(str(dataset / "label.txt"), Problems())
    texts = lines_of(dataset / "data.txt")
    model, tokenizer, vectors = load_centred(str(encoder), texts, 48, 32)

    def embed_texts(some):
        from retrieval_based.encoder import embed
        from text_cls.neural.model import encode

        return embed(model, encode(some, tokenizer, model, 48), 32)

    index = label_index(labels, embed_texts)
    scores = label_scores(index.search(vectors, len(index)), labels, calibration=calibration_of(index, vectors))
    chosen = zero_shot_decision(labels).decide(scores, labels.parents)
    return [labels.join(row) for row in chosen], scores


@pytest.mark.parametrize("way", ["zero", "head"])
@pytest.mark.parametrize("task", SOURCES)
def test_every_program_gives_the_same_labels(made, sentence_encoder, run, serve, tmp_path, task, way):
    dataset, bundle = made[task, way]
    texts, found = lines_of(dataset / "data.txt"), {}
    for name, main, words in (
        ("infer", infer.main, ("--model_path_prefix", bundle, "--input_file", dataset / "data.txt")),
        ("predict", predict.main, ("--params_path", bundle, "--data_file", dataset / "data.txt")),
    )[: 2 if way == "zero" else 1]:
        status, log = run(main, *words, "--output_file", tmp_path / name, "--device", "cpu")
        assert status == 0, log
        found[name] = [line.partition("\t")[2] for line in lines_of(tmp_path / name)]
    kind = "retrieval" if way == "zero" else "cls_hierarchical" if task == "news" else "cls_multi_label"
    client = serve(bundle)
    answers = [ask(client, texts[i : i + 10], kind).json()["result"]["label_name"] for i in range(0, len(texts), 10)]
    found["server"] = [",".join(names) for part in answers for names in part]
    if way == "zero":
        found["zero_shot"], scores = sets_by_paddle(dataset, sentence_encoder)
        assert open_predictor(str(bundle)).probabilities(texts) == pytest.approx(scores, abs=1e-4)
    assert all(sets == found["server"] for sets in found.values()) and len(set(found["server"])) > 3
    assert len(found["server"]) == len(texts) and (way == "head" or all(found["server"]))


def test_retrieval_evaluate_scores_the_same_labels(made, run, tmp_path, monkeypatch):
    dataset, bundle = made["reviews", "zero"]
    monkeypatch.chdir(tmp_path)
    status, log = run(
        evaluate.main, "--similar_text_pair", dataset / "dev.txt", "--params_path", bundle, "--device", "cpu"
    )
    assert status == 0, log
    status, measured = run(
        infer.main, "--model_path_prefix", bundle, "--dataset_dir", dataset, "--device", "cpu", "--perf"
    )
    micro, macro = (float(log.split(f"{name} f1 score: ")[1].split("\n")[0]) for name in ("Micro", "Macro"))
    assert f"micro f1: {micro:.2f}, macro f1: {macro:.2f}" in measured


# --------------------------------------------------------------------------------------------------------- zero-shot


@pytest.mark.parametrize("task", SOURCES)
def test_a_zero_shot_bundle(made, task):
    """An ordinary one for retrieval: an entry per leaf; probabilities that add up to one label per text."""
    dataset, folder = made[task, "zero"]
    bundle = open_bundle(str(folder))
    labels, leaves = bundle.labels, corpus_labels(bundle.labels)
    assert bundle.kind == "retrieval" and bundle.manifest["search"]["calibration"]["slope"] == 20
    assert EmbeddedIndex.open(str(folder)).labels() == {labels.names[i]: 1 for i in leaves}
    predictor = open_predictor(str(folder))
    probabilities = predictor.probabilities(lines_of(dataset / "data.txt"))
    assert probabilities[:, leaves].sum(axis=1).mean() == pytest.approx(1, abs=0.01)
    for child, parent in enumerate(labels.parents):
        assert parent < 0 or (probabilities[:, parent] >= probabilities[:, child]).all()
    found = list(predictor.predict(["", "酒店", "台风"]))
    assert all(len(names) >= (2 if task == "news" else 1) for names, _ in found)


def test_vectors_are_centred_on_the_unlabelled_texts(sentence_encoder):
    texts = lines_of(SOURCES["news"] / "data.txt")
    encoder, _, vectors = load_centred(str(sentence_encoder), texts, 48, 32)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    assert (vectors @ vectors.T).mean() < 0.05  # without centring, above 0.5
    assert encoder.projection.weight.numpy() == pytest.approx(np.eye(64))


def test_a_trained_encoder_keeps_its_layer(made, sentence_encoder, zero_shot, unlabelled, tmp_path):
    """One of retrieval_based/train.py with --output_emb_size: its projection stays, and is centred."""
    train = load_script("retrieval_based/train.py")
    where = ("--train_set_file", "train.txt", "--corpus_file", "label.txt", "--similar_text_pair_file", "dev.txt")
    dataset = made["news", "zero"][0]
    where = [dataset / word if word.endswith(".txt") else word for word in where]
    words = [*where, "--model_name_or_path", sentence_encoder, "--save_dir", tmp_path / "trained", "--device", "cpu"]
    quick = "--max_seq_length 16 --epochs 1 --learning_rate 1e-3 --batch_size 32 --output_emb_size 16".split()
    assert train.main([*map(str, words), *quick]) == 0
    status, log, bundle = zero_shot(unlabelled, encoder=tmp_path / "trained")
    assert status == 0 and "not a sentence encoder" not in log, log
    assert open_bundle(str(bundle)).manifest["width"] == 16


@given(st.integers(2, 30), st.integers(1, 40), st.integers(0, 99))
def test_probabilities_add_up_to_one_label_per_text(labels, texts, seed):
    random = np.random.default_rng(seed)
    index = EmbeddedIndex(8)
    names = [str(i) for i in range(labels)]
    index.add(unit(random.normal(size=(labels, 8))).astype(np.float32), [(name,) for name in names])
    vectors = unit(random.normal(size=(texts, 8))).astype(np.float32)
    scores = label_scores(index.search(vectors, labels), Labels(names), calibration=calibration_of(index, vectors))
    assert scores.sum(axis=1).mean() == pytest.approx(1, abs=1e-3)


def test_labels_added_later_are_centred_and_scored_alike(made, run_index, tmp_path):
    dataset, bundle = made["news", "zero"]
    folder = shutil.copytree(bundle, tmp_path / "bundle")
    texts = lines_of(dataset / "data.txt")
    before = open_predictor(str(folder)).probabilities(texts)
    run_index("add", folder, "--label", "体育赛事##马拉松", "--text", texts[0])
    added = open_predictor(str(folder))
    after = added.probabilities(texts)
    leaves = corpus_labels(open_bundle(str(bundle)).labels)
    assert after[:, leaves] == pytest.approx(before[:, leaves])
    assert after[0, added.labels.index["体育赛事##马拉松"]] > 0.99  # its own text: a cosine of 1
    assert added.bundle.manifest["search"]["calibration"]
    run_index("build", folder, "--corpus", "labels")
    assert open_bundle(str(folder)).manifest["search"]["calibration"]
    log = run_index("build", folder, "--corpus", "rows", "--corpus_file", dataset / "train.txt", "--no-vote")
    assert "calibration" not in open_bundle(str(folder)).manifest["search"] and "Scores are now cosines" in log


@pytest.mark.parametrize(
    ("calibration", "message"),
    [
        ({"slope": "20", "offset": 1}, "search.calibration.slope must be a number from 0 to 1000000.0, not '20'"),
        ({"slope": 20}, "search.calibration.offset is missing"),
        (None, "search.calibration must be an object"),
    ],
)
def test_a_calibration_edited_by_hand(made, tmp_path, calibration, message):
    folder = shutil.copytree(made["news", "zero"][1], tmp_path / "bundle")
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    manifest["search"]["calibration"] = calibration
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        open_bundle(str(folder))


def test_votes_have_no_calibration(made, tmp_path):
    folder = shutil.copytree(made["news", "zero"][1], tmp_path / "bundle")
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    manifest["search"]["vote"] = True
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(UserError, match="search.calibration is for cosines, not for votes"):
        open_bundle(str(folder))


# ------------------------------------------------------------------------------------------------------ descriptions


def test_descriptions_instead_of_a_label_file(zero_shot, unlabelled):
    """A parent may be left out; a label with several lines has one entry, the mean of their vectors."""
    os.remove(unlabelled / "label.txt")
    lines = ["A##A01\t台风、暴雨等天气", "B\t公司上市", "A##A01\t暴雪预警", "", "A##A02\t地震"]
    write_lines(unlabelled / "label_descriptions.txt", lines)
    status, log, bundle = zero_shot(unlabelled)
    assert status == 0 and "look like codes" not in log, log
    assert lines_of(bundle / "label.txt") == ["A", "A##A01", "B", "A##A02"]
    predictor = open_predictor(str(bundle))
    vectors = predictor.embed(["台风、暴雨等天气", "暴雪预警", "公司上市"])
    wanted = unit(np.array([vectors[:2].mean(axis=0), vectors[2]]))
    found = predictor.index.search(wanted, 1)
    assert found.cosines[:, 0] == pytest.approx(1, abs=1e-5)
    assert [row[0] for row in found.labels] == [("A##A01",), ("B",)]


def test_descriptions_must_be_those_of_the_labels(zero_shot, unlabelled):
    write_lines(unlabelled / "label_descriptions.txt", ["无此标签\t什么", "文化娱乐 没有制表符"])
    status, log, bundle = zero_shot(unlabelled)
    assert status == 2 and "label_descriptions.txt:1" in log and "label_descriptions.txt:2: a line is label<TAB>" in log
    assert not bundle.exists()


def test_words_for_prompts_are_no_part_of_a_label(zero_shot, unlabelled):
    write_lines(unlabelled / "label.txt", ["天气==雨", "天气==雪", "公司"])
    status, log, bundle = zero_shot(unlabelled)
    assert status == 0 and lines_of(bundle / "label.txt") == ["天气", "公司"], log


# ----------------------------------------------------------------------------------------------------------- messages


@pytest.fixture
def warnings(run, sentence_encoder):
    """warnings(dataset, encoder=...) -> what the script logs before it loads the encoder."""

    def call(dataset, encoder=sentence_encoder):
        def warn(argv):
            args = script.parse_args(argv)
            set_up_log()
            script.warn(args, script.read_all_labels(args, Problems()))

        return run(warn, *flags(dataset, encoder, "bundle"))[1]

    return call


def test_labels_that_are_codes(warnings, unlabelled):
    write_lines(unlabelled / "label.txt", ["A01", "B-12", "3.2", "退货", "Sports", "covid19"])
    log = warnings(unlabelled)
    assert "3 labels look like codes" in log and "A01, B-12, 3.2." in log
    assert f"into {unlabelled / 'label_descriptions.txt'}" in log
    write_lines(unlabelled / "label_descriptions.txt", ["A01\t付款", "B-12\t退款", "3.2\t送货"])
    assert "look like codes" not in warnings(unlabelled)


def test_an_encoder_that_is_none_for_sentences(warnings, zero_shot, unlabelled, learner, trained):
    for encoder in (learner, trained["news"][1], "ernie-3.0-medium-zh"):  # pretrained ones, and a classifier
        log = warnings(unlabelled, encoder)
        assert "not a sentence encoder" in log and "python data/make_pretrained_model.py" in log
    assert "rocketqa-zh-dureader-query-encoder" not in warnings(unlabelled, "rocketqa-zh-dureader-query-encoder")
    assert warnings(unlabelled) == ""
    status, log, bundle = zero_shot(unlabelled, encoder=learner)
    assert status == 0 and "not a sentence encoder" in log and bundle.exists()


def test_what_is_missing_is_named(zero_shot, unlabelled, tmp_path):
    os.remove(unlabelled / "data.txt")
    status, log, _ = zero_shot(unlabelled, encoder=tmp_path / "e5-zh")
    assert status == 2 and "no such folder. To make a sentence encoder: python data/make_pretrained_model.py" in log
    assert "data.txt: No such file or directory" in log
    write_lines(unlabelled / "data.txt", ["", " "])
    assert "no texts; the labels are centred on unlabelled texts, one per line" in zero_shot(unlabelled)[1]
    write_lines(unlabelled / "data.txt", ["台风", "地震"])
    status, log, _ = zero_shot(unlabelled)
    assert status == 0 and "2 texts are few to centre the labels on; use 200 or more" in log
    write_lines(unlabelled / "train.txt", ["台风\t"])
    status, log, _ = zero_shot(unlabelled)
    assert status == 2 and "no row has a label; label some, or use --no-head" in log


# --------------------------------------------------------------------------------------------------------------- head


@pytest.mark.parametrize("task", SOURCES)
def test_a_head_bundle(made, task):
    """The encoder is as it was; the classifier has weights also for a label that no row has."""
    dataset, folder = made[task, "head"]
    bundle = open_bundle(str(folder))
    assert bundle.kind == "classification" and {"model.onnx", "float32.pdmodel"} <= set(bundle.manifest["files"])
    used = {name for line in lines_of(dataset / "train.txt") for name in line.partition("\t")[2].split(",")}
    texts = lines_of(dataset / "data.txt")
    probabilities = open_predictor(str(folder)).probabilities(texts)
    unused = [i for i, name in enumerate(bundle.labels.names) if name not in used]
    assert task == "reviews" or unused
    assert (probabilities[:, unused].std(axis=0) > 1e-4).all()


def test_very_few_rows(zero_shot, news):
    """The log says how the thresholds came about, and what the head reaches on rows that it was not fitted to."""
    write_lines(news / "train.txt", lines_of(news / "train.txt")[:3])
    status, log, bundle = zero_shot(news)
    assert status == 0 and "Thresholds: the default" in log and "Out of fold: micro f1" in log, log
    assert "labels have no row: only what they are called says which texts have them" in log
    assert "Dev: micro f1" in log and "on 30 rows" in log
    write_lines(news / "train.txt", lines_of(news / "train.txt")[:1])
    assert zero_shot(news)[0] == 0


def planted(seed, rows=200, labels=4):
    """Features that hold the labels and noise: (features, targets)."""
    random = np.random.default_rng(seed)
    targets = random.random((rows, labels)) < 0.3
    return np.hstack([targets + 0.3 * random.normal(size=targets.shape), random.normal(size=(rows, 8))]), targets


def test_a_row_is_scored_by_a_head_that_did_not_see_it(monkeypatch):
    """Other labels of the rows of a fold change the scores of all rows but those of the fold."""
    features, targets = planted(1)
    folds = np.array_split(np.arange(len(targets)), 5)
    monkeypatch.setattr("frozen_head.draw_folds", lambda *_: folds)
    before, _ = out_of_fold(features, targets, range(len(targets)), np.zeros((4, 12)), 3)
    changed = targets.copy()
    changed[folds[0]] = ~changed[folds[0]]
    after, _ = out_of_fold(features, changed, range(len(targets)), np.zeros((4, 12)), 3)
    assert after[folds[0]] == pytest.approx(before[folds[0]])
    assert (np.abs(after - before)[40:] > 1e-3).any(axis=1).all()
    assert ((before > 0.5) == targets).mean() > 0.85


def test_thresholds_are_fitted_where_they_gain():
    features, targets = planted(2)
    texts, vectors, parents = [str(i) for i in range(len(targets))], np.zeros((4, 12)), np.full(4, -1)
    probabilities, folds = out_of_fold(features, targets, texts, vectors, 3)
    base = Decision()
    low = probabilities * 0.4  # so that 0.5 is never reached
    decision, predicted = chosen_decision(base, low, targets, folds, parents, 3)
    assert decision.threshold != 0.5 and (predicted == targets).mean() > 0.85
    noise = np.random.default_rng(3).random(targets.shape)
    decision, _ = chosen_decision(Decision(threshold=0.01), noise, targets, folds, parents, 3)
    assert decision == Decision(threshold=0.01)
