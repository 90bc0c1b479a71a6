import json
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from text_cls.cli import UserError
from text_cls.decision import Decision
from text_cls.reference import (
    BINS,
    PREDICTED,
    REFERENCE,
    REST,
    Counts,
    bins_of,
    decision_digest,
    make_reference,
    read_reference,
)
from text_cls.rows import Labels


def reference_of(rows=40, labels=3, seed=1, decision=None):
    random = np.random.default_rng(seed)
    probabilities, gold = random.random((rows, labels), dtype=np.float32), random.random((rows, labels)) < 0.4
    tokens = random.integers(3, 90, rows)
    names = Labels([f"标签{i}" for i in range(labels)])
    found = make_reference("data/dev.txt", names, decision or Decision(), probabilities, gold, (tokens, 900, 12))
    return found, probabilities, gold


def test_counts_are_those_of_the_rows():
    reference, probabilities, gold = reference_of()
    predicted, counts = probabilities > 0.5, reference.counts
    assert counts.rows == 40 and counts.labels.tolist() == predicted.sum(axis=0).tolist()
    assert counts.without_label == (~predicted.any(axis=1)).sum() and counts.lengths.sum() == 40
    for half, chosen in ((REST, ~predicted), (PREDICTED, predicted)):
        for label in range(3):
            values = probabilities[chosen[:, label], label]
            assert counts.scores[half, :, label].tolist() == np.histogram(values, [0, *BINS])[0].tolist()
        assert reference.gold_scores[half].sum() == (gold & chosen).sum()


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=20))
def test_each_probability_is_in_one_bin(values):
    for value, place in zip(values, bins_of(np.array(values))):
        assert value <= BINS[place] and (place == 0 or value > BINS[place - 1])


@given(st.integers(1, 30), st.integers(0, 30), st.booleans())
def test_counts_add_up(first, second, by_label):
    _, probabilities, _ = reference_of(first + second)
    predicted, parts = probabilities > 0.3, [Counts.none(3, by_label) for _ in range(3)]
    for counts, rows in zip(parts, (slice(None), slice(first), slice(first, None))):
        counts.add_predictions(probabilities[rows], predicted[rows])
        counts.add_tokens(np.arange(first + second)[rows], 5, 1)
    parts[1].add(parts[2])
    for name in ("rows", "without_label", "labels", "scores", "lengths"):
        assert np.array_equal(getattr(parts[0], name), getattr(parts[1], name)), name


def test_a_written_reference_is_read_back(tmp_path):
    reference, *_ = reference_of()
    reference.write(str(tmp_path))
    assert read_reference(str(tmp_path)).record() == reference.record()
    assert "dev.txt" in (tmp_path / REFERENCE).read_text(encoding="utf-8") and reference.file == "dev.txt"
    assert read_reference(str(tmp_path / "none")) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: record.update(rows=41), "are not those of 41 rows"),
        (lambda record: record["labels"][0].update(predicted=-1), "predicted must be a whole number of at least 0"),
        (lambda record: record["bins"].pop(), "its bins are not those of this code"),
        (lambda record: record["lengths"].pop(), "a histogram has another number of bins"),
        (lambda record: record.update(unknown_tokens=901), "more tokens are unknown than there are"),
        (lambda record: record["gold_of_rest"].__setitem__(5, 41), "gold_of_rest has more than there are scores"),
        (lambda record: record["labels"][0].update(gold=41), "the gold labels are not those of 40 rows"),
        (lambda record: record["labels"][1].update(gold=0), "the gold labels are not those of 40 rows"),
        (lambda record: record.update(version=2), "version 2 is unknown"),
        (lambda record: record.pop("decision"), "decision is missing"),
    ],
)
def test_a_damaged_reference_is_one_message(tmp_path, change, message):
    record = reference_of()[0].record()
    change(record)
    (tmp_path / REFERENCE).write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(UserError, match=f"{REFERENCE}.*{message}.*--write_reference"):
        read_reference(str(tmp_path))


def test_a_reference_knows_its_labels_and_decision():
    reference, *_ = reference_of(decision=Decision(threshold=(0.2, 0.3, 0.4)))
    names = reference.labels
    assert reference.problem(names, Decision(threshold=[0.2, 0.3, 0.4])) is None
    assert "decision.json changed" in reference.problem(names, Decision())
    assert "other labels" in reference.problem(names[::-1], Decision(threshold=(0.2, 0.3, 0.4)))


def test_the_decision_has_one_digest_before_and_after_it_is_saved(tmp_path):
    for decision in (Decision(), Decision(threshold=np.float64(0.3)), Decision(threshold=(0, 1, 0.25), min_k=1)):
        decision.save(tmp_path / "decision.json", ["a", "b", "c"])
        assert decision_digest(Decision.load(tmp_path / "decision.json")) == decision_digest(decision)


def test_training_and_export_keep_what_the_model_predicts_on_dev(trained, bundles):
    """The checkpoint's reference, of Paddle, is that of the bundle on ONNX Runtime."""
    from text_cls.cli import Problems
    from text_cls.rows import read_rows
    from text_cls.serving.predictor import Predictor

    dataset, checkpoint = trained["news"]
    predictor = Predictor(str(bundles["news"]))
    rows = read_rows(str(dataset / "dev.txt"), predictor.labels, Problems())
    probabilities, tokens = predictor.probabilities_and_tokens(list(rows.texts))
    model = predictor.labels, predictor.decision
    expected = make_reference(rows.path, *model, probabilities, rows.multi_hot(len(predictor.labels)), tokens)
    for folder in (checkpoint, bundles["news"]):
        found = read_reference(str(folder))
        assert found.problem(predictor.labels.names, predictor.decision) is None
        one, other = found.record(), expected.record()
        assert one.pop("labels")[0].keys() == other.pop("labels")[0].keys()
        rounded = ("gold_of_rest", "gold_of_predicted")  # a score at the edge of a bin may be in the next one
        assert {k: v for k, v in one.items() if k not in rounded} == {
            k: v for k, v in other.items() if k not in rounded
        }
        assert np.abs(found.counts.scores - expected.counts.scores).sum() <= 4


def test_a_bundle_gets_no_reference_of_another_decision(run, trained, tmp_path):
    import export_model

    model = shutil.copytree(trained["news"][1], tmp_path / "model")
    Decision(threshold=0.3).save(model / "decision.json")
    status, log = run(export_model.main, "--params_path", model, "--output_path", tmp_path / "export")
    assert status == 0 and not (tmp_path / "export" / REFERENCE).exists()
    assert "The bundle has no reference.json: the checkpoint's was written before decision.json changed" in log


def test_a_pruned_width_has_its_own(run, trained, tmp_path):
    import prune

    dataset, model = trained["news"]
    flags = ["--device", "cpu", "--max_seq_length", "48", "--num_train_epochs", "1", "--width_mult_list", "1/2"]
    where = ["--dataset_dir", dataset, "--params_dir", model, "--output_dir", tmp_path / "prune"]
    assert run(prune.main, *where, *flags, "--no-refit_head")[0] == 0
    whole, pruned = read_reference(str(model)), read_reference(str(tmp_path / "prune" / "width_mult_0.5"))
    assert pruned.labels == whole.labels and pruned.counts.rows == whole.counts.rows
    assert not np.array_equal(pruned.counts.scores, whole.counts.scores)
