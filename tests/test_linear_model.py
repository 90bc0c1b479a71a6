import numpy as np
import pytest
from conftest import REAL_DATA, ROOT, lines_of

from metric import classification_report
from text_cls import linear_model
from text_cls.cli import Problems
from text_cls.rows import read_labels, read_rows

LONG = "长" * 1990 + "，很长的一行"


def rows_of(folder, count=400):
    problems = Problems()
    labels = read_labels(str(folder / "label.txt"), problems)
    rows = read_rows(str(folder / "train.txt"), labels, problems).sample(count, 3)
    return list(rows.texts), rows.multi_hot(len(labels)), labels


@pytest.fixture(scope="module")
def reviews_rows():
    return rows_of(ROOT / "data" / "multi_label")


def test_scores_are_those_of_scikit_learn(reviews_rows):
    """Oracle: its own pipeline, one label at a time."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import LinearSVC

    texts, targets, _ = reviews_rows
    model = linear_model.fit(texts[:300], targets[:300])
    scores = model.scores(texts[300:])
    assert scores.dtype == np.float32 and scores.shape == (100, targets.shape[1])
    vectorizer = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), min_df=2, sublinear_tf=True)
    for label in (0, 5, targets.shape[1] - 1):
        oracle = make_pipeline(vectorizer, LinearSVC(random_state=3)).fit(texts[:300], targets[:300, label])
        assert np.allclose(scores[:, label], oracle.decision_function(texts[300:]), atol=1e-4)


def test_labels_that_no_row_or_every_row_has(reviews_rows):
    texts, targets, _ = reviews_rows
    targets = targets[:60, :3].copy()
    targets[:, 0], targets[:, 1] = False, True
    model = linear_model.fit(texts[:60], targets)
    scores, probabilities = model.scores(["😀"]), model.probabilities(["😀"])
    assert scores[0, 0] < 0 < scores[0, 1] and probabilities[0, 0] < 0.5 < probabilities[0, 1]


@pytest.mark.parametrize(
    "texts",
    [["好"], ["一", "二"], ["😀", "𠮷"], [LONG, "短"], ["同", "同", "同"], ["<b>&amp;</b>", '"', "a\u3000b", "\0"]],
)
@pytest.mark.parametrize("labels", [1, 20])
def test_few_and_strange_texts(texts, labels):
    """No n-gram in two texts, texts all the same, one label: nothing to learn, but scores for all."""
    targets = np.zeros((len(texts), labels), dtype=bool)
    targets[0] = True
    model = linear_model.fit(texts, targets)
    probabilities = model.probabilities(["新的", *texts])
    assert probabilities.shape == (len(texts) + 1, labels)
    assert np.isfinite(probabilities).all() and (0 <= probabilities).all() and (probabilities <= 1).all()
    if len(set(texts)) == 1:
        with pytest.raises(ValueError, match="two distinct texts"):
            linear_model.out_of_fold(texts, targets)
    else:
        assert np.isfinite(linear_model.out_of_fold(texts, targets)).all()


def test_no_row_is_scored_by_a_model_that_has_seen_its_text():
    """Labels that are pure chance: a model that had seen the row, or its twin, would know them."""
    random = np.random.default_rng(3)
    words = ["".join(map(chr, random.integers(0x4E00, 0x4E40, 12))) for _ in range(300)]
    texts, targets = [*words, *words], np.tile(random.random((300, 4)) < 0.5, (2, 1))
    seen = linear_model.fit(texts, targets, calibrate=False).scores(texts) > 0
    scores, probabilities = linear_model.out_of_fold(texts, targets)
    assert (seen == targets).mean() > 0.95
    assert abs(((scores > 0) == targets).mean() - 0.5) < 0.06
    assert np.array_equal(scores[:300] != 0, np.ones((300, 4), bool))
    assert np.allclose(scores[:300], scores[300:], atol=1e-6)  # twins are in one fold, so of one model
    assert 0.2 < probabilities.mean() < 0.8


def test_it_learns_and_its_probabilities_are_calibrated(reviews_rows):
    texts, targets, labels = reviews_rows
    scores, probabilities = linear_model.out_of_fold(texts, targets)
    report = classification_report(targets, scores > 0, labels.parents)
    assert report["micro"]["f1"] > 0.3
    prior = np.broadcast_to(targets.mean(axis=0), targets.shape)

    def loss(p):
        p = np.clip(p, 1e-6, 1 - 1e-6)
        return -np.where(targets, np.log(p), np.log(1 - p)).mean()

    assert loss(probabilities) < 0.7 * loss(prior)
    # Right as often as they say, in each of four parts, over all labels together.
    for low, high in ((0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.01)):
        part = (probabilities >= low) & (probabilities < high)
        assert part.sum() > 20 and abs(probabilities[part].mean() - targets[part].mean()) < 0.2
    model = linear_model.fit(texts[:300], targets[:300])
    order = np.argsort(model.scores(texts[300:]).ravel())
    assert (np.diff(model.probabilities(texts[300:]).ravel()[order]) >= 0).all()


def test_the_same_seed_gives_the_same_scores_also_in_processes(reviews_rows, monkeypatch):
    texts, targets, _ = reviews_rows
    alone = linear_model.out_of_fold(texts, targets, folds=2)[0]
    monkeypatch.setattr(linear_model, "WORTH_PROCESSES", 0)
    assert np.array_equal(alone, linear_model.out_of_fold(texts, targets, folds=2)[0])
    assert not np.array_equal(alone, linear_model.out_of_fold(texts, targets, folds=2, seed=4)[0])


def test_features_can_be_shared(reviews_rows):
    texts, targets, _ = reviews_rows
    features = linear_model.features_of(texts)
    once = linear_model.fit(texts, targets, calibrate=False, features=features)
    assert np.array_equal(once.coef, linear_model.fit(texts, targets, calibrate=False).coef)
    with pytest.raises(ValueError, match="calibrate=True"):
        once.probabilities(texts)


@pytest.mark.parametrize(("name", "micro", "macro"), [("duee", 0.9099, 0.8175), ("cail-divorce", 0.8887, 0.7254)])
def test_scores_on_the_public_sets_match_their_notes(name, micro, macro):
    """The figures in the sets' own notes, dev scored once, nothing tuned on it."""
    folder = REAL_DATA / name
    if not folder.exists():
        pytest.skip(f"{folder} does not exist; set TEXT_CLASSIFICATION_DATA to the folder of the public sets")
    texts, targets, labels = rows_of(folder, None)
    dev = read_rows(str(folder / "dev.txt"), labels, Problems())
    assert len(dev) == len(lines_of(folder / "dev.txt"))
    scores = linear_model.fit(texts, targets, calibrate=False).scores(dev.texts)
    report = classification_report(dev.multi_hot(len(labels)), scores > 0, labels.parents)
    assert report["micro"]["f1"] == pytest.approx(micro, abs=2e-4)
    assert report["macro"]["f1"] == pytest.approx(macro, abs=2e-4)
