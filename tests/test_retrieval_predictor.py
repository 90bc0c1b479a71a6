"""Retrieval bundles on ONNX Runtime, compared with the encoder and with cosines computed by hand."""

import json
import shutil
import subprocess

import numpy as np
import pytest
from conftest import ROOT, command_line, lines_of, write_lines
from retrieval_bundles import make_encoder, make_retrieval_bundle, put_index

import infer
from text_cls.bundle import open_bundle
from text_cls.cli import Problems, UserError
from text_cls.decision import Decision
from text_cls.rows import read_rows
from text_cls.search.embedded_index import EmbeddedIndex
from text_cls.serving import open_predictor
from text_cls.serving.predictor import Predictor
from text_cls.serving.retrieval_predictor import RetrievalPredictor

TEXTS = ["台风登陆，学校停课一天", "", "足球", "公司裁员三成，股价当日大跌", "😀 Café <b>\"'&</b>", "好" * 2000, "足球"]


@pytest.fixture
def bundle(retrieval, tmp_path):
    """A copy that a test may change: the hierarchical bundle with an index of label texts."""
    return shutil.copytree(retrieval["news", "labels"], tmp_path / "bundle")


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


# ------------------------------------------------------------------------------------------------------------- answers


@pytest.mark.parametrize("task", ["news", "reviews"])
def test_vectors_are_the_encoders_in_any_batch(retrieval, bundles, task):
    """The encoder is the classifier's logits at unit length, so the classifier's predictor gives the same vectors."""
    ours = RetrievalPredictor(str(retrieval[task, "labels"]), batch_size=2, num_threads=1)
    theirs = Predictor(str(bundles[task]), num_threads=1)
    together = ours.embed(TEXTS)
    assert together.shape == (7, ours.columns) and together.dtype == np.float32
    assert np.abs(together - unit(theirs.run(theirs.encode(TEXTS)))).max() < 1e-5
    assert np.abs(together - np.concatenate([ours.embed([text]) for text in TEXTS])).max() < 1e-5
    assert np.abs(ours.embed(TEXTS, 5) - together).max() > 0.01 and ours.embed([]).shape == (0, ours.columns)


@pytest.mark.parametrize("task", ["news", "reviews"])
def test_scores_of_label_texts_are_their_cosines_and_a_parent_scores_as_its_best_child(retrieval, task):
    ours = open_predictor(str(retrieval[task, "labels"]), num_threads=1)
    names = ours.labels.names
    leaves = [name for name in names if not any(other.startswith(f"{name}##") for other in names)]
    cosines = ours.embed(TEXTS) @ ours.embed([leaf.replace("##", ",") for leaf in leaves]).T
    assert ours.bundle.manifest["search"] == {"vote": False, "neighbours": 20}
    for row, found in zip(cosines, ours.probabilities(TEXTS)):
        near = set(np.argsort(-row)[:20])
        for name, score in zip(names, found):
            below = [k for k, leaf in enumerate(leaves) if k in near and (leaf + "##").startswith(f"{name}##")]
            assert score == pytest.approx(max([0, *row[below]]), abs=1e-5)


@pytest.mark.parametrize("task", ["news", "reviews"])
def test_rows_vote(retrieval, trained, task):
    """A label scores its share of the cosines of the 10 nearest rows; rows without a label are not searched."""
    ours = open_predictor(str(retrieval[task, "rows"]), num_threads=1)
    rows = read_rows(str(trained[task][0] / "train.txt"), ours.labels, Problems())
    labelled = [i for i in range(len(rows)) if len(rows.labels_of(i))]
    cosines = ours.embed(TEXTS) @ ours.embed([rows.texts[i] for i in labelled]).T
    hot = rows.multi_hot(len(ours.labels))[labelled]
    for row, found in zip(cosines, ours.probabilities(TEXTS)):
        near = np.argsort(-row, kind="stable")[:10]
        assert np.sort(found) == pytest.approx(np.sort(row[near] @ hot[near] / row[near].sum()), abs=0.02)
        best = found.argmax()  # of rows that are equally near, others may be found
        assert row[near] @ hot[near][:, best] / row[near].sum() == pytest.approx(found[best], abs=0.02)


@pytest.mark.parametrize("corpus", ["labels", "rows"])
@pytest.mark.parametrize("task", ["news", "reviews"])
def test_every_kind_of_text_gets_labels_with_all_their_ancestors(retrieval, task, corpus):
    ours = open_predictor(str(retrieval[task, corpus]), num_threads=1)
    answers = list(ours.predict(TEXTS))
    assert len(answers) == len(TEXTS) and any(names for names, _ in answers)
    assert list(map(repr, answers[2])) == list(map(repr, answers[6]))  # the same text
    for names, scores in answers:
        assert len(names) == len(scores) and all(0.5 < score <= 1 for score in scores)
        assert all(name.rpartition("##")[0] in names for name in names if "##" in name)
    assert ours.probabilities([]).shape == (0, len(ours.labels)) and list(ours.predict([])) == []


def test_hostile_labels_and_entries_of_twenty_labels_and_a_single_label(bundle):
    """Label names with quotes, HTML and emoji; an entry of 20 labels; and then only a single label."""
    encoder = RetrievalPredictor(str(bundle), num_threads=1)
    names = ["<img src=x onerror=alert(1)>", "\"a' or 1=1", "😀", "好" * 500, *(f"l{i}" for i in range(20))]
    for kept in (names, names[:1]):
        index = EmbeddedIndex(encoder.columns)
        index.add(encoder.embed(kept[:4]), [(name,) for name in kept[:4]])
        if len(kept) > 4:
            index.add(encoder.embed(["足球"]), [tuple(kept[4:])])
        put_index(bundle, index, kept)
        ours = open_predictor(str(bundle), num_threads=1)
        answers = dict(zip(kept, ours.predict(kept[:4])))
        for name, (found, scores) in answers.items():
            assert name in found and scores[found.index(name)] == pytest.approx(1, abs=1e-5)


# ------------------------------------------------------------------------------------------- one way to open any bundle


def test_the_options_of_a_predictor_are_those_of_a_retrieval_predictor(retrieval):
    one = open_predictor(str(retrieval["news", "labels"]), num_threads=1, batch_size=2, max_seq_length=9)
    assert one.session.get_session_options().intra_op_num_threads == 1 and one.batch_tokens == 18
    assert one.encode(["好" * 300]).lengths.tolist() == [9]


def test_a_bundle_is_opened_by_its_kind(retrieval, bundles, tmp_path):
    assert type(open_predictor(str(bundles["news"]))) is Predictor
    assert type(open_predictor(str(retrieval["news", "rows"]))) is RetrievalPredictor
    with pytest.raises(UserError, match="is a bundle of kind retrieval, but classification is needed here; name a fol"):
        Predictor(str(retrieval["news", "rows"]))
    with pytest.raises(UserError, match="is a bundle of kind classification, but retrieval is needed here.*export_mod"):
        RetrievalPredictor(str(bundles["news"]))
    with pytest.raises(UserError, match="name a folder that export_model.py or prune.py wrote"):
        open_predictor(str(tmp_path))
    with pytest.raises(UserError, match="name a folder that retrieval_based/export_model.py wrote"):
        RetrievalPredictor(str(tmp_path))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "other"}, "kind must be one of classification, retrieval, not 'other'"),
        ({"kind": ["retrieval"]}, "kind must be one of classification, retrieval, not a list"),
        ({"width": "55"}, "manifest.json: width must be a whole number of at least 1, not '55'"),
        ({"width": 0}, "width must be a whole number of at least 1, not 0"),
        ({"search": {"vote": 1, "neighbours": 5}}, "search.vote must be true or false, not 1"),
        ({"search": {"vote": True, "neighbours": 0}}, "search.neighbours must be a whole number of at least 1, not 0"),
        ({"search": None}, "search must be an object .*, not null"),
        ({"corpus": "texts"}, "corpus must be one of labels, rows, not 'texts'"),
        ({"index": {}}, "index.kind must be one of embedded, milvus, not null"),
        ({"index": {"kind": "faiss"}}, "index.kind must be one of embedded, milvus, not 'faiss'"),
        ({"index": {"kind": "milvus", "uri": "a.db"}}, "index.collection is missing"),
        ({"index": {"kind": "milvus", "uri": 5, "collection": "c"}}, "index.uri must be a text, not 5"),
        ({"num_labels": 54}, "label.txt has 55 labels, the model 54"),
        ({"index": None}, "has no index yet; python retrieval_based/index.py build --bundle "),
        ({"width": 54}, r"outputs must be one tensor of shape \[-1, 54\]; export it again"),
        ({"width": 10**12}, "outputs must be one tensor of shape"),
    ],
)
def test_wrong_fields_of_a_manifest_are_refused(bundle, fields, message):
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    (bundle / "manifest.json").write_text(json.dumps({**manifest, **fields}), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        open_predictor(str(bundle))


@pytest.mark.parametrize("name", ["width", "corpus", "search", "index"])
def test_missing_fields_of_a_manifest_are_refused(bundle, name):
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    del manifest[name]
    (bundle / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(UserError, match=f"manifest.json: {name} is missing; export it again"):
        open_predictor(str(bundle))


@pytest.mark.parametrize("name", ["vectors.npy", "entries.json", "model.onnx"])
def test_a_changed_file_is_refused_by_name(bundle, name):
    content = (bundle / name).read_bytes()
    (bundle / name).unlink()
    (bundle / name).write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
    with pytest.raises(UserError, match=f"{name} is not the file of this bundle .its SHA-256 differs."):
        open_predictor(str(bundle))


def test_embedding_needs_no_index(bundles, tmp_path):
    encoder = RetrievalPredictor(str(make_encoder(bundles["news"], tmp_path / "encoder")), num_threads=1)
    assert encoder.embed(["足球"]).shape == (1, 55)
    with pytest.raises(UserError, match="index.py build"):
        encoder.probabilities(["足球"])


# ------------------------------------------------------------------------------------------ an index that changed since


def test_reopened_it_uses_the_new_index_and_keeps_its_encoder(bundle):
    before = open_predictor(str(bundle), num_threads=1)
    names = before.labels.names
    gone = next(name for name in names if name.count("##") == 2)
    index = EmbeddedIndex.open(str(bundle))
    index.remove(gone)
    index.add(before.embed(["足球"]), [("新的",)])
    put_index(bundle, index, [*(name for name in names if name != gone), "新的"], Decision(0.3, max_k=1))
    after = before.reopened()
    assert after.session is before.session and after.tokenizer is before.tokenizer
    assert after.labels.names[-1] == "新的" and gone not in after.labels.index and before.labels.names == names
    assert [found for found, _ in after.predict(["足球"])] == [["新的"]]
    assert "新的" not in next(before.predict(["足球"]))[0]  # requests in progress keep the old index
    scores = before.probabilities([gone.replace("##", ",")])[0]
    assert scores[before.labels.index[gone]] == pytest.approx(1, abs=1e-5)


def test_reopened_it_needs_no_file_for_its_first_answer(bundle):
    one = open_predictor(str(bundle), num_threads=1)
    put_index(bundle, EmbeddedIndex.open(str(bundle)))
    after = one.reopened()
    shutil.rmtree(bundle)
    assert next(after.predict(["足球"]))[0] == next(one.predict(["足球"]))[0]


def test_reopened_another_encoder_is_loaded(bundle, retrieval):
    before = open_predictor(str(bundle), num_threads=1)
    put_index(bundle, EmbeddedIndex.open(str(bundle)), max_seq_length=7)
    after = before.reopened()
    assert after.session is not before.session and (after.max_seq_length, before.max_seq_length) == (7, 48)
    shutil.rmtree(bundle)
    shutil.copytree(retrieval["reviews", "labels"], bundle)
    ours = open_predictor(str(bundle), num_threads=1)
    assert [found for found, _ in after.reopened().predict(TEXTS)] == [found for found, _ in ours.predict(TEXTS)]
    assert before.session is not None


# ------------------------------------------------------------------------------------------------- scripts that use it


@pytest.mark.parametrize("corpus", ["labels", "rows"])
@pytest.mark.parametrize("task", ["news", "reviews"])
def test_infer(retrieval, trained, run, task, corpus, tmp_path):
    bundle, dataset = retrieval[task, corpus], trained[task][0]
    flags = ("--device", "cpu", "--model_path_prefix", bundle, "--num_threads", 1)
    out = ("--output_file", tmp_path / "out.txt", "--scores", "--threshold", 0.6)
    status, log = run(infer.main, *flags, "--dataset_dir", dataset, *out)
    what = {"rows": "labelled rows; embedded index), by vote", "labels": "label texts; embedded index), by the nearest"}
    assert status == 0 and what[corpus] in log
    ours = open_predictor(str(bundle), num_threads=1)
    ours.decision = Decision(0.6)
    texts = lines_of(dataset / "data.txt")
    for line, text, (names, scores) in zip(lines_of(tmp_path / "out.txt"), texts, ours.predict(texts), strict=True):
        assert line == "\t".join([text, ",".join(names), ",".join(f"{score:.5f}" for score in scores)])
    status, log = run(infer.main, *flags, "--dataset_dir", dataset, "--perf")
    assert status == 0 and "micro f1: " in log and "sample nums: 60, time: " in log
    status, log = run(infer.main, *flags, "--dataset_dir", dataset, "--perf", "--use_quantize")
    assert status == 2 and "holds no int8 model" in log


def test_without_paddle_and_without_milvus(retrieval, tmp_path):
    write_lines(tmp_path / "texts.txt", ["台风登陆", "足球赛"] * 700)
    absent = ("paddle", "paddlenlp", "paddle2onnx", "onnx", "sklearn", "visualdl", "pymilvus", "milvus_lite", "hnswlib")
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({absent!r}))\n"
        f"sys.path.insert(0, {str(ROOT / 'deploy' / 'predictor')!r})\n"
        "import infer\n"
        "sys.exit(infer.main(sys.argv[1:]))\n"
    )
    words = (
        "--device",
        "cpu",
        "--model_path_prefix",
        retrieval["news", "rows"],
        "--input_file",
        "texts.txt",
        "--output_file",
        "out.txt",
    )
    answer = subprocess.run(
        command_line("-c", code, *words), cwd=tmp_path, capture_output=True, text=True, encoding="utf-8"
    )
    assert answer.returncode == 0, answer.stderr
    lines = lines_of(tmp_path / "out.txt")
    assert len(lines) == 1400 and set(lines) == set(lines[:2])


def test_thresholds_are_fitted_to_scores(trained, bundles, run, tmp_path):
    """threshold.py writes thresholds that raise F1 on dev into the bundle, and leaves the index unchanged."""
    import threshold

    dataset = trained["news"][0]
    rows = read_rows(str(dataset / "train.txt"), open_bundle(str(bundles["news"])).labels, Problems())
    bundle = make_retrieval_bundle(bundles["news"], tmp_path / "bundle", rows)
    before = open_predictor(str(bundle), num_threads=1).probabilities(TEXTS)
    where = ("--dataset_dir", dataset, "--device", "cpu", "--bundle", bundle)
    status, log = run(threshold.main, *where, "--mode", "single", "--force")
    assert status == 0 and "Decision saved in" in log, log
    after = open_predictor(str(bundle), num_threads=1)
    assert after.decision.threshold != 0.5 and (after.probabilities(TEXTS) == before).all()
    assert json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))["kind"] == "retrieval"
