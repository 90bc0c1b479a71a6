"""export_model.py --cascade and --blend: limit, weight, the graph of two models, and what its consumers make of it."""

import json
import re
import shutil

import numpy as np
import onnx
import pytest
from conftest import lines_of, write_lines
from hypothesis import given
from hypothesis import strategies as st
from test_triton_models import loader

import build_repository
import export_model as script
import infer
import threshold
from text_cls import blend, cascade
from text_cls.blend import Blend
from text_cls.bundle import open_bundle
from text_cls.cascade import Cascade, fit, lowest_limit, points_lost
from text_cls.cli import UserError
from text_cls.cross_fitting import draw_folds
from text_cls.neural import export
from text_cls.probabilities import logit
from text_cls.scores import scores
from text_cls.serving.predictor import Predictor
from text_cls.tokenization import CodePoints, load_tokenizer

# ----------------------------------------------------------------------------------------------------------- the limit


def sets(rows):
    return st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=rows, max_size=rows).map(np.array)


@given(st.data())
def test_the_lowest_limit_is_found(data):
    """Oracle: every limit, from the highest down, until one costs too much."""
    rows = data.draw(st.integers(1, 12))
    gold, linear, neural = (data.draw(sets(rows)) for _ in range(3))
    sure = np.array(data.draw(st.lists(st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0]), min_size=rows, max_size=rows)))
    most, expected = data.draw(st.sampled_from([0.0, 5.0, 30.0])), np.inf
    for limit in sorted({value for value in sure if value >= 0}, reverse=True):
        after = np.where((sure >= limit)[:, None], linear, neural)
        before, now = scores(gold, neural), scores(gold, after)
        if any(100 * (before[name] - now[name]) > most + 1e-9 for name in ("micro_f1", "macro_f1")):
            break
        expected = limit
    assert lowest_limit(sure, gold, linear, neural, most) == expected


def examples(rows=2000, seed=1):
    """(sure, gold, linear, neural, folds): the neural model is always right, the linear one if it is above 0.7 sure."""
    random = np.random.default_rng(seed)
    gold, sure = np.eye(4, dtype=bool)[random.integers(0, 4, rows)], random.random(rows)
    linear = np.where((sure > 0.7)[:, None], gold, np.roll(gold, 1, axis=1))
    return sure, gold, linear, gold.copy(), draw_folds(gold, map(str, range(rows)), 3)


def test_the_limit_is_where_the_linear_model_begins_to_fail():
    found = fit(*examples())
    assert 0.68 < found.limit < 0.72 and 0.27 < found.share < 0.33
    assert max(found.micro_f1_lost, found.macro_f1_lost) <= cascade.MOST_LOST
    sure, gold, linear, neural, _ = examples(seed=2)  # new rows
    answered = (sure >= found.limit)[:, None]
    assert max(points_lost(gold, neural, np.where(answered, linear, neural))) < 2 * cascade.MOST_LOST


def test_the_limit_holds_for_rows_that_did_not_choose_it():
    """Chance alone makes some limits look good on the rows that chose them: here the linear model knows nothing."""
    random = np.random.default_rng(5)
    for _ in range(5):
        gold = random.random((300, 6)) < 0.3
        linear, neural = (gold ^ (random.random(gold.shape) < share) for share in (0.12, 0.1))
        found = fit(random.random(300), gold, linear, neural, draw_folds(gold, map(str, range(300)), 3))
        assert found is None or max(found.micro_f1_lost, found.macro_f1_lost) <= cascade.MOST_LOST


def test_there_may_be_no_limit():
    sure, gold, _, neural, folds = examples()
    assert fit(sure, gold, ~gold, neural, folds) is None
    assert fit(-np.ones(len(sure)), gold, gold, neural, folds) is None  # no row has an n-gram that is known
    few = [fold[fold < 40] for fold in folds]
    assert fit(sure[:40], gold[:40], gold[:40], neural[:40], few) is None


# ---------------------------------------------------------------------------------------------------------- the bundle


@pytest.fixture(scope="module")
def models(bundles, linear_bundle, cascade_bundle):
    """Predictors of the cascade, of its linear and of its neural model, and the cascade's limit."""
    limit = open_bundle(str(cascade_bundle)).manifest["cascade"]["limit"]
    return *(Predictor(str(each), num_threads=1) for each in (cascade_bundle, linear_bundle, bundles["news"])), limit


def texts_of(trained):
    rows = [line.partition("\t")[0] for line in lines_of(trained["news"][0] / "dev.txt")]
    return [
        *rows,
        *lines_of(trained["news"][0] / "data.txt"),
        "",
        " ",
        "😀",
        "[PAD] 台风 [SEP]",
        "台风登陆，" * 300,
        "ＡİΣ",
    ]


def sureness(linear, texts):
    """How sure the linear model is of each text, by its own bundle."""
    logits = linear.run(linear.encode(texts))
    distance = np.abs(logits - logit(np.array(linear.decision.threshold))).min(axis=1)
    return np.where(np.isclose(logits, linear.run(linear.encode([""])), atol=1e-6).all(axis=1), -1, distance)


def names_of(predictor, texts):
    return [names for names, _ in predictor.predict(texts)]


def test_each_row_has_the_labels_of_the_model_that_answers_it(models, trained):
    both, linear, neural, limit = models
    texts = texts_of(trained)
    sure = sureness(linear, texts)
    texts = [text for text, distance in zip(texts, sure) if abs(distance - limit) > 1e-3]
    sure = sureness(linear, texts) >= limit
    assert 20 < sure.sum() < len(sure) - 20 and not sure[texts.index("")] and not sure[texts.index("😀")]
    expected = [
        mine if is_sure else other
        for is_sure, mine, other in zip(sure, names_of(linear, texts), names_of(neural, texts))
    ]
    assert names_of(both, texts) == expected
    assert names_of(linear, texts) != expected != names_of(neural, texts)
    found = both.run(both.encode(texts))
    assert np.allclose(found[~sure], neural.run(neural.encode(texts))[~sure], atol=1e-4)


def test_the_company_of_a_row_does_not_matter(models, trained):
    both, linear, _, limit = models
    texts = texts_of(trained)
    sure = sureness(linear, texts)
    texts = [text for text, distance in zip(texts, sure) if abs(distance - limit) > 1e-3]
    together, encoded = both.run(both.encode(texts)), both.encode(texts)
    sure = sureness(linear, texts) >= limit
    everything = [np.arange(len(texts))]
    alone = [np.array([i]) for i in range(len(texts))]
    apart = [np.flatnonzero(sure), np.flatnonzero(~sure)]  # all sure, then none
    for batches in (everything, alone, apart):
        assert np.allclose(both.run(encoded, batches), together, atol=1e-4)
    assert both.probabilities([]).shape == (0, len(both.labels))
    assert both.probabilities(texts[:1]).shape == (1, len(both.labels))


def test_the_neural_model_runs_only_for_rows_of_which_the_linear_one_is_not_sure(models, trained, tmp_path):
    """The graph fails in the neural branch if that is made to; without an unsure row it does not get there."""
    import onnxruntime

    both, linear, _, limit = models
    model = onnx.load(both.bundle.onnx_file("float32"))
    [branch] = [node for node in model.graph.node if node.op_type == "If"]
    inner = next(attribute.g for attribute in branch.attribute if attribute.name == "then_branch")
    table = next(
        tensor for tensor in inner.initializer if tensor.dims[:1] == [len(lines_of(both.bundle.folder + "/vocab.txt"))]
    )
    assert not any(tensor.name == table.name for tensor in model.graph.initializer)
    table.CopyFrom(onnx.numpy_helper.from_array(np.zeros((1, table.dims[1]), np.float32), table.name))
    onnx.save(model, tmp_path / "broken.onnx")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(tmp_path / "broken.onnx"), options)
    texts = texts_of(trained)
    sure, encoded = sureness(linear, texts) - limit, both.encode(texts)
    assert len(session.run(None, encoded.batch(np.flatnonzero(sure > 1e-3)))[0])
    with pytest.raises(Exception, match="indices element out of data bounds"):
        session.run(None, encoded.batch(np.flatnonzero(sure < -1e-3)[:2]))


@given(
    st.lists(st.text(st.characters(codec="utf-8"), max_size=60) | st.just("[PAD] [SEP] 一 a"), max_size=5),
    st.integers(3, 700),
)
def test_a_row_has_the_ids_of_both_models(models, texts, most):
    both, linear, neural, _ = models
    tokens, characters = neural.tokenizer.encode(texts, min(most, 2048)), linear.tokenizer.encode(texts, 20_000)
    first = neural.bundle.manifest["vocab_size"]
    for row, some, more in zip(both.tokenizer.encode(texts, most), tokens, characters):
        assert row.tolist() == [*some, *(more + first)]
        assert row.dtype == np.int32 and row.max() < both.bundle.manifest["vocab_size"]


def test_any_ids_are_answered(models):
    """Triton's clients may send what no tokenizer makes: without characters, mixed, or nothing but padding."""
    both, _, neural, _ = models
    size, random = both.bundle.manifest["vocab_size"], np.random.default_rng(3)
    first = neural.bundle.manifest["vocab_size"]
    rows = [
        np.zeros((2, 7)),
        random.integers(0, first, (3, 9)),
        random.integers(0, size, (4, 30)),
        np.full((1, 2), size - 1),
    ]
    for ids in rows:
        [logits] = both.session.run(None, {"input_ids": ids.astype(np.int64)})
        assert logits.shape == (len(ids), len(both.labels)) and np.isfinite(logits).all()
    [logits] = both.session.run(None, {"input_ids": rows[1].astype(np.int64)})
    plain = {"input_ids": rows[1].astype(np.int64), "token_type_ids": np.zeros_like(rows[1])}
    assert np.allclose(logits, neural.session.run(None, plain)[0], atol=1e-4)  # no characters to be sure by
    long = np.concatenate([np.full((1, 3000), 9), [[first + 3]]], axis=1)  # more tokens than the model has positions
    assert np.isfinite(both.session.run(None, {"input_ids": long})[0]).all()


# --------------------------------------------------------------------------------------------------------- its readers


def test_infer_the_server_and_triton_agree(models, trained, serve, cascade_bundle, monkeypatch, tmp_path):
    both, texts = models[0], [line.partition("\t")[0] for line in lines_of(trained["news"][0] / "dev.txt")]
    expected = [",".join(names) for names in names_of(both, texts)]
    write_lines(tmp_path / "texts.txt", texts)
    where = ("--model_path_prefix", cascade_bundle, "--input_file", tmp_path / "texts.txt", "--device", "cpu")
    assert infer.main([*map(str, where), "--output_file", str(tmp_path / "out.txt")]) == 0
    assert [line.split("\t")[1] for line in lines_of(tmp_path / "out.txt")] == expected

    client = serve(str(cascade_bundle))
    answer = client.post("/models/cls_hierarchical", json={"data": {"text": texts[:50]}}).json()["result"]
    assert [",".join(names) for names in answer["label_name"]] == expected[:50]
    refused = client.post(
        "/models/cls_hierarchical", json={"data": {"text": ["a"]}, "parameters": {"max_seq_len": 9999}}
    )
    assert refused.status_code == 422 and "takes at most 2048 tokens" in refused.text

    assert build_repository.main(["--bundle", str(cascade_bundle), "--output", str(tmp_path / "models")]) == 0
    load = loader(tmp_path / "models", monkeypatch)
    tokenizer, batcher = load("tokenizer"), load("seqcls_batcher")
    assert tokenizer.outputs == ["OUTPUT_0"]
    from test_triton_models import Request, Tensor, named

    [made] = tokenizer.execute([Request([Tensor("INPUT_0", np.array([[text.encode()] for text in texts], object))])])
    [logits] = batcher.execute([Request([Tensor("input_ids", named(made, "OUTPUT_0").as_numpy())])])
    found = named(logits, "logits").as_numpy()
    assert np.allclose(found, both.run(both.encode(texts)), atol=1e-4)


def test_what_a_reader_says(models, capfd, cascade_bundle):
    models[0].log()
    said = "The linear model alone answers 50% of the rows, those that it is sure of: micro F1 -0.12 and macro F1 +0.50"
    assert said in capfd.readouterr().err
    with pytest.raises(UserError, match="max_seq_length 3000: this model takes at most 2048 tokens"):
        Predictor(str(cascade_bundle), max_seq_length=3000)
    with pytest.raises(UserError, match="make it: python export_model.py --int8 --cascade LINEAR --dataset_dir"):
        Predictor(str(cascade_bundle), "int8")


def test_the_manifest_and_the_card(cascade_bundle, bundles, trained):
    manifest = json.loads((cascade_bundle / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["cascade"] == {
        "limit": manifest["cascade"]["limit"],
        "share": 0.5,
        "micro_f1_lost": 0.125,
        "macro_f1_lost": -0.5,
    }
    assert [tensor["name"] for tensor in manifest["inputs"]] == ["input_ids"] and manifest["static_graph"] is None
    assert manifest["longest_input"] == 2048 + 20_000 and manifest["max_seq_length"] == 48
    assert manifest["vocab_size"] == len(lines_of(bundles["news"] / "vocab.txt")) + CodePoints.size
    card = (cascade_bundle / "README.md").read_text(encoding="utf-8")
    assert "The linear model alone answers 50% of the rows" in card and "macro F1 +0.50 points" in card
    assert "线性模型单独回答它有把握的文本（约 50%）" in card and "macro F1 +0.50 个百分点" in card
    reference = json.loads((cascade_bundle / "reference.json").read_text(encoding="utf-8"))
    both = Predictor(str(cascade_bundle), num_threads=1)
    texts = [line.partition("\t")[0] for line in lines_of(trained["news"][0] / "dev.txt")]
    _, (lengths, tokens, unknown) = both.probabilities_and_tokens(texts)
    assert (reference["tokens"], reference["unknown_tokens"], reference["rows"]) == (tokens, unknown, len(texts))
    predicted = sum(label["predicted"] for label in reference["labels"])
    assert predicted == sum(map(len, names_of(both, texts)))


def test_a_cascade_without_its_settings_is_refused(cascade_bundle, tmp_path):
    bundle = shutil.copytree(cascade_bundle, tmp_path / "bundle")
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    del manifest["files"]["characters.json"]
    (bundle / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(UserError, match=r"files has no characters\.json"):
        Predictor(str(bundle))
    (bundle / "characters.json").write_text('{"vocab_size": 0}', encoding="utf-8")
    with pytest.raises(UserError, match="longest_tokens is missing"):
        load_tokenizer(str(bundle))


def test_thresholds_can_be_fitted_in_the_bundle(run, cascade_bundle, trained, tmp_path):
    bundle = shutil.copytree(cascade_bundle, tmp_path / "bundle")
    flags = ("--dataset_dir", trained["news"][0], "--bundle", bundle, "--device", "cpu", "--mode", "single", "--force")
    status, log = run(threshold.main, *flags)
    assert status == 0, log
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["cascade"]["share"] == 0.5 and Predictor(str(bundle)).probabilities(["台风"]).shape == (1, 55)


# --------------------------------------------------------------------------------------------------------- the command


@pytest.fixture
def export_cascade(run, trained, linear_checkpoint, tmp_path):
    """export_cascade(*flags) -> (exit status, log) of the hierarchical model; the flags win."""

    def call(*flags):
        where = ("--params_path", trained["news"][1], "--dataset_dir", trained["news"][0])
        return run(script.main, *where, "--cascade", linear_checkpoint, "--output_path", tmp_path / "export", *flags)

    return call


def test_the_log_says_what_to_expect(export_cascade, tmp_path):
    """The linear model is better than the tiny one on every row of this set."""
    status, log = export_cascade()
    assert status == 0
    found = re.search(
        r"The linear model alone answers (\d+)% of the rows, those that it is sure of: .*, out of fold", log
    )
    assert found and int(found[1]) > 50
    assert re.search(r"The bundle's logits match its two models' within \S+e-0[5-9]", log)
    assert re.search(r"micro F1 .*\n.*neural model +[\d.]+ .*\n.*both models +[\d.]+ ", log)
    record = open_bundle(str(tmp_path / "export")).manifest["cascade"]
    assert round(100 * record["share"]) == int(found[1])


def test_a_linear_model_that_does_it_alone_is_named(export_cascade, monkeypatch):
    monkeypatch.setattr(cascade, "fit", lambda *_: Cascade(0.0, 0.99, -1.0, -1.0))
    status, log = export_cascade()
    assert status == 0 and "The linear model alone does as well here: name it as --params_path" in log


def test_without_a_limit_nothing_is_written(export_cascade, monkeypatch, tmp_path):
    monkeypatch.setattr(cascade, "fit", lambda *_: None)
    status, log = export_cascade()
    assert status == 2 and "F1 falls by more than 0.2 points wherever the linear model answers; train it on more" in log
    assert not (tmp_path / "export").exists() and "Traceback" not in log


def test_int8_is_for_the_neural_model(export_cascade, monkeypatch, tmp_path):
    real = export.measure

    def timed(predictors, rows):
        results = real(predictors, rows)
        for name, result in results.items():
            result["texts_per_second"] = 200 if "int8" in name else 100
        return results

    monkeypatch.setattr(export, "measure", timed)
    monkeypatch.setattr(cascade, "fit", lambda sure, *_: Cascade(float(np.median(sure)), 0.5, 0.0, 0.0))
    status, log = export_cascade("--int8", "--max_f1_drop", 100)
    assert status == 0 and "accepted" in log and "This is not faster here than the neural model" in log
    graph = onnx.load(tmp_path / "export" / "int8_model.onnx").graph
    [branch] = [node for node in graph.node if node.op_type == "If"]
    inner = next(attribute.g for attribute in branch.attribute if attribute.name == "then_branch")
    assert "MatMulIntegerToFloat" in [node.op_type for node in inner.node]
    bundle = str(tmp_path / "export")
    texts = ["台风登陆，学校停课", "央行发布金融数据"] * 5
    apart = Predictor(bundle, "int8").run(Predictor(bundle).encode(texts)) - Predictor(bundle).run(
        Predictor(bundle).encode(texts)
    )
    assert np.abs(apart).max() < 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--hf", "hf"], "--cascade: a bundle of two models is for ONNX Runtime on CPUs; leave --hf out"),
        (["--fp16"], "--cascade: a bundle of two models is for ONNX Runtime on CPUs; leave --fp16 out"),
        (["--blend", "{neural}"], "name the same linear model in both"),
        (["--cascade", "{neural}"], "holds no linear model; train one: python train.py --model_name linear"),
        (["--cascade", "nowhere"], "--cascade nowhere does not exist"),
        (["--params_path", "{linear}"], "holds a linear model, for which there is no --cascade"),
        (["--params_path", "{other}"], "has other labels than --params_path"),
        (["--params_path", "{windows}"], "was trained with --long_texts windows, but beside a linear model"),
        (["--dev_file", "few.txt"], "--cascade and --blend are fitted to few.txt: 20 rows; 50 are needed"),
        (["--dataset_dir", ""], "--cascade is fitted to labelled rows: name the folder of dev.txt with --dataset_dir"),
    ],
)
def test_what_does_not_fit_is_refused(
    export_cascade, trained, linear_checkpoint, tmp_path, monkeypatch, flags, message
):
    monkeypatch.chdir(tmp_path)
    windows = shutil.copytree(trained["news"][1], tmp_path / "windows")
    record = json.loads((windows / "run.json").read_text(encoding="utf-8"))
    record["arguments"] |= {"long_texts": "windows"}
    (windows / "run.json").write_text(json.dumps(record), encoding="utf-8")
    dataset = shutil.copytree(trained["news"][0], tmp_path / "data")
    write_lines(dataset / "few.txt", lines_of(dataset / "dev.txt")[:20])
    known = {
        "neural": trained["news"][1],
        "linear": linear_checkpoint,
        "other": trained["reviews"][1],
        "windows": windows,
    }
    status, log = export_cascade("--dataset_dir", dataset, *(flag.format(**known) for flag in flags))
    assert status == 2 and message in log and "Traceback" not in log
    assert not (tmp_path / "export").exists()


# ----------------------------------------------------------------------------------------------------------- the blend


LOGITS = st.lists(st.floats(-60, 60, width=32), min_size=1, max_size=20).map(
    lambda values: np.array(values, np.float32)
)


@given(LOGITS, st.integers(0, 2**32 - 1), st.sampled_from(blend.WEIGHTS.tolist()))
def test_a_blend_has_the_mean_of_the_probabilities(linear, seed, weight):
    """Oracle: the same in float64."""
    neural = np.random.default_rng(seed).permutation(linear) / 2
    mean, rest = (
        sum(
            share / (1 + np.exp(-s * part.astype(np.float64)))
            for share, part in ((weight, linear), (1 - weight, neural))
        )
        for s in (1, -1)
    )
    assert np.allclose(blend.blended(linear, neural, weight), np.log(mean / rest), atol=1e-3)


def test_two_models_that_err_on_different_rows_are_better_together():
    random = np.random.default_rng(1)
    gold = random.random((600, 5)) < 0.3
    linear, neural = ((4 * gold - 2 + random.normal(0, 2, gold.shape)).astype(np.float32) for _ in range(2))
    folds = draw_folds(gold, map(str, range(600)), 3)
    found = blend.fit(linear, neural, gold, lambda probabilities: probabilities > 0.5, folds)
    assert 0.3 <= found.weight <= 0.7 and found.micro_f1_gained > 3 and found.macro_f1_gained > 3
    noise = random.normal(0, 1, gold.shape).astype(np.float32)
    assert blend.fit(noise, (8 * gold - 4).astype(np.float32), gold, lambda p: p > 0.5, folds) is None
    assert blend.fit(linear[:40], neural[:40], gold[:40], lambda p: p > 0.5, folds) is None


@pytest.mark.parametrize("with_cascade", [False, True])
def test_a_blend_is_exported(run, trained, linear_checkpoint, models, monkeypatch, tmp_path, with_cascade):
    _, linear, neural, limit = models
    dataset, checkpoint = trained["news"]
    monkeypatch.setattr(blend, "fit", lambda *_: Blend(0.25, 1.0, 2.0))
    monkeypatch.setattr(cascade, "fit", lambda *_: Cascade(limit, 0.5, 0.125, -0.5))
    flags = ("--cascade", linear_checkpoint) if with_cascade else ()
    where = ("--params_path", checkpoint, "--dataset_dir", dataset, "--output_path", tmp_path / "export")
    status, log = run(script.main, *where, "--blend", linear_checkpoint, *flags)
    assert status == 0 and "means of those of a linear model (weight 0.25) and the neural model: micro F1 +1.00" in log
    assert ("points against the means for all rows" in log) == with_cascade
    predictor, texts = Predictor(str(tmp_path / "export"), num_threads=1), texts_of(trained)
    assert predictor.bundle.blend == Blend(0.25, 1.0, 2.0) and bool(predictor.bundle.cascade) == with_cascade
    sure = sureness(linear, texts)
    texts = [text for text, distance in zip(texts, sure) if abs(distance - limit) > 1e-3]
    own, shared = (logit(np.array(each.decision.threshold)) for each in (linear, neural))
    moved = linear.run(linear.encode(texts)) + (shared - own)
    expected = (1 / (1 + np.exp(-moved)) + 3 * neural.probabilities(texts)) / 4
    if with_cascade:
        expected = np.where((sureness(linear, texts) >= limit)[:, None], 1 / (1 + np.exp(-moved)), expected)
    assert np.allclose(predictor.probabilities(texts), expected, atol=1e-5)
    card = (tmp_path / "export" / "README.md").read_text(encoding="utf-8")
    assert "means of those of a linear model (weight 0.25)" in card and "线性模型（权重 0.25）" in card


def test_a_blend_that_gains_nothing_is_not_written(run, trained, linear_checkpoint, monkeypatch, tmp_path):
    monkeypatch.setattr(blend, "fit", lambda *_: None)
    where = ("--params_path", trained["news"][1], "--dataset_dir", trained["news"][0])
    status, log = run(script.main, *where, "--blend", linear_checkpoint, "--output_path", tmp_path / "export")
    assert status == 2 and "--blend gains no F1 on these 60 dev rows; leave it out" in log
    assert not (tmp_path / "export").exists()
