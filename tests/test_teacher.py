"""train.py --teacher, --unlabelled, --soft_labels and --layers: the loss, the cache, students, and what is refused."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import lines_of, write_lines
from hypothesis import given
from hypothesis import strategies as st
from test_resume import stop_early
from training_runs import assert_same_weights, history, weights

import train as script
from text_cls import linear_model
from text_cls.batching import Encoded
from text_cls.cli import Problems
from text_cls.decision import Decision
from text_cls.neural import teacher as teacher_module
from text_cls.neural.checkpoint import read_run
from text_cls.neural.compat import import_paddle
from text_cls.neural.distillation import TaughtSteps
from text_cls.neural.fewer_layers import spread
from text_cls.neural.losses import bce
from text_cls.neural.model import load_pretrained, predict_logits
from text_cls.neural.teacher import Teacher, probabilities_of
from text_cls.neural.training_options import TrainingOptions
from text_cls.rows import Labels, read_labels, read_rows
from text_cls.soft_labels import read_soft_labels
from text_cls.soft_targets import SoftTargets, Stacked

paddle = import_paddle()
NAMES = ["财经", "体育", "娱乐", "科技"]
WORDS = ["股票债利", "球赛跑冠", "歌星影剧", "网电机软"]  # of each label
FILLER = "我你他这那有在是的了不"


def sentence(random, words):
    letters = random.choice([*FILLER], 10).tolist()
    for word in words:
        letters.insert(random.integers(len(letters)), word)
    return "".join(letters)


def planted(folder, count, first_words_only, seed):
    """Rows of a label each, or of two, that one of its words shows; perhaps only the first word of each label."""
    random, rows = np.random.default_rng(seed), []
    for i in range(count):
        labels = sorted({i % 4, int(random.integers(4))})
        words = [WORDS[k][0 if first_words_only else random.integers(4)] for k in labels]
        rows.append(f"{sentence(random, words)}\t{','.join(NAMES[k] for k in labels)}")
    write_lines(folder, rows)
    return rows


@pytest.fixture(scope="session")
def lesson(tmp_path_factory):
    """(data set with few labelled rows and unlabelled texts, a teacher that knows all words: a linear model)."""
    folder = tmp_path_factory.mktemp("lesson")
    for name, count, first in (("few", 24, True), ("all", 600, False)):
        (folder / name).mkdir()
        write_lines(folder / name / "label.txt", NAMES)
        planted(folder / name / "train.txt", count, first, 1)
        planted(folder / name / "dev.txt", 80, False, 2)
    texts = [row.partition("\t")[0] for row in planted(folder / "rows.txt", 400, False, 3)]
    texts[0] += "雨"  # a token that no labelled row has
    write_lines(folder / "few" / "more.txt", texts)
    teacher = folder / "teacher"
    words = ["--dataset_dir", str(folder / "all"), "--model_name", "linear", "--save_dir", str(teacher)]
    assert script.main(words) == 0
    return folder / "few", teacher


@pytest.fixture
def student(run, lesson, tmp_path):
    """student(*flags, teacher=, save_dir=) -> (status, log, folder) of a linear student, with a cache of its own."""

    def call(*flags, teacher=lesson[1], name="student"):
        where = ("--dataset_dir", lesson[0], "--model_name", "linear", "--save_dir", tmp_path / name)
        taught = ("--teacher", teacher, "--teacher_cache", tmp_path / "cache") if teacher else ()
        status, log = run(script.main, *where, *taught, *flags)
        return status, log, tmp_path / name

    return call


@pytest.fixture
def asked(monkeypatch):
    """Numbers of the texts that the teacher was asked for, call by call."""
    counts, original = [], Teacher.probabilities

    def counted(self, texts):
        counts.append(len(texts))
        return original(self, texts)

    monkeypatch.setattr(Teacher, "probabilities", counted)
    return counts


def dev_f1(folder):
    return read_run(str(folder))["card"]["scores"]["dev"]["micro_f1"][0]


# ------------------------------------------------------------------------------------------------------------ the loss


@pytest.fixture
def taught(lesson):
    """`TaughtSteps` on 3 rows with labels and 2 texts without, whose second row has no probabilities."""
    labels = read_labels(str(lesson[0] / "label.txt"), Problems())
    rows = read_rows(str(lesson[0] / "train.txt"), labels, Problems()).take(np.arange(3))
    values = np.random.default_rng(0).random((4, 4)).astype(np.float16)
    soft = SoftTargets(0.7, 3, Stacked([values[:1], values[1:]]), np.array([2, -1, 0, 3, 1]))
    tokens = Encoded({"input_ids": np.ones(5, np.int32)}, np.arange(6), {"input_ids": 0}, False, False, 0)
    checkpoint = SimpleNamespace(model=None, labels=labels)
    return TaughtSteps(TrainingOptions(device="cpu", label_smoothing=0.2), checkpoint, rows, tokens, bce, soft), values


def losses_of(logits, targets):
    return (np.logaddexp(0, logits) - targets * logits).mean(axis=1)


def test_the_loss_is_the_weighted_sum_of_both(taught):
    """Oracle: the formula in float64. Label smoothing is for labels only."""
    steps, values = taught
    rows = np.array([4, 1, 0, 3])
    logits = np.random.default_rng(1).normal(0, 3, (4, 4)).astype(np.float32)
    inputs = {name: paddle.to_tensor(value) for name, value in steps.targets_of(rows).items()}
    found = steps.compare(paddle.to_tensor(logits), **inputs).numpy()
    hard = losses_of(logits.astype(float), steps.rows.multi_hot(4)[[0, 1, 0, 0]] * 0.8 + 0.1)
    soft = losses_of(logits.astype(float), values[[1, 0, 2, 3]].astype(float))
    expected = [0.7 * soft[0], 0.3 * hard[1], 0.7 * soft[2] + 0.3 * hard[2], 0.7 * soft[3]]
    assert found == pytest.approx(expected, rel=1e-5)


def test_a_text_without_labels_has_only_the_gradient_of_the_teacher(taught):
    steps, values = taught
    logits = paddle.to_tensor(np.ones((1, 4), np.float32), stop_gradient=False)
    inputs = {name: paddle.to_tensor(value) for name, value in steps.targets_of(np.array([3])).items()}
    steps.compare(logits, **inputs).sum().backward()
    assert logits.grad.numpy() == pytest.approx(0.7 * (1 / (1 + np.exp(-1)) - values[3:4].astype(float)) / 4, abs=1e-6)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.data())
def test_rows_of_stacked_arrays(sizes, data):
    whole = np.arange(3 * sum(sizes)).reshape(-1, 3)
    parts = np.split(whole, np.cumsum(sizes)[:-1])
    rows = np.array(data.draw(st.lists(st.integers(0, len(whole) - 1), min_size=1, max_size=6)))
    assert np.array_equal(Stacked(parts).take(rows), whole[rows])
    assert np.array_equal(Stacked(parts, np.array([2, 0])).take(rows), whole[rows][:, [2, 0]])


def test_the_mixed_target_has_the_same_gradient(taught):
    """A linear model gets one target and one weight per row: the sum of both cross-entropies, but for a constant."""
    soft, hard = taught[0].soft, taught[0].rows.multi_hot(4)
    targets, weights = soft.mixed(hard)
    probabilities, shares = soft.of(np.arange(5))
    labels = np.concatenate([hard, np.zeros((2, 4))])
    for p in (0.1, 0.6):
        both = shares[:, :1] * (p - probabilities) + shares[:, 1:] * (p - labels)
        assert weights[:, None] * (p - targets) == pytest.approx(both, abs=1e-6)


def test_a_linear_model_of_soft_targets():
    """Certain targets give the model of labels. Others: oracle, scikit-learn's SVM on each row twice, with weights."""
    from sklearn.svm import LinearSVC

    texts = ["甲乙丙", "甲丁", "戊己", "戊庚", "甲辛", "戊壬"] * 3
    targets = np.array([[1], [1], [0], [0], [1], [0]] * 3, bool)
    hard = linear_model.fit(texts, targets, calibrate=False)
    soft = linear_model.fit(texts, targets.astype(float), calibrate=False, weights=np.ones(18))
    assert soft.scores(texts) == pytest.approx(hard.scores(texts), abs=1e-3)
    random = np.random.default_rng(0)
    unsure, weights = random.uniform(0.1, 0.9, (18, 1)), random.uniform(0.3, 1, 18)
    features = linear_model.features_of(texts)
    found = linear_model.fit(texts, unsure, calibrate=False, features=features, weights=weights).scores(texts)
    twice = np.concatenate([weights * unsure[:, 0], weights * (1 - unsure[:, 0])])
    matrix = features.matrix[np.tile(np.arange(18), 2)]
    oracle = LinearSVC(random_state=3).fit(matrix, np.arange(36) < 18, twice)
    assert found[:, 0] == pytest.approx(oracle.decision_function(features.matrix), abs=1e-3)


# ------------------------------------------------------------------------------------------------------------ students


def test_a_student_of_one_layer_learns_what_only_the_teacher_knows(run, lesson, learner, tmp_path):
    """Words that no labelled row has, from texts without labels."""
    data, teacher = lesson
    flags = "--device cpu --max_seq_length 32 --learning_rate 2e-3 --layers 1 --head_start random".split()
    base = ("--dataset_dir", data, "--model_name", learner, *flags)
    cache = ("--teacher_cache", tmp_path / "cache")
    taught = ("--teacher", teacher, "--unlabelled", "more.txt", "--teacher_weight", 0.9, "--epochs", 8)
    status, log = run(script.main, *base, *taught, *cache, "--save_dir", tmp_path / "taught")
    assert status == 0, log
    assert "with the weight 0.9: probabilities of 24 of 24 rows with labels, and of 400 texts without" in log
    assert not any(text in log for text in lines_of(data / "more.txt"))
    assert run(script.main, *base, "--epochs", 60, "--save_dir", tmp_path / "alone")[0] == 0
    assert dev_f1(tmp_path / "taught") > dev_f1(tmp_path / "alone") + 0.15
    assert json.loads((tmp_path / "taught" / "config.json").read_text(encoding="utf-8"))["num_hidden_layers"] == 1
    card = (tmp_path / "taught" / "README.md").read_text(encoding="utf-8")
    assert "- Teacher: `teacher`. Its probabilities of 24 rows with labels and of 400 texts without" in card
    assert "| `more.txt` | training, by the teacher's probabilities | 400 |" in card


def test_probabilities_are_fitted_to_the_rows_with_labels():
    """Thresholds are, too. Targets of other texts may be low everywhere, and would make all probabilities low."""
    random = np.random.default_rng(0)
    gold = random.random((60, 1)) < 0.5
    letters = ["ab" if random.random() < (0.8 if row else 0.2) else "cd" for row in gold[:, 0]]
    texts = [f"{name}{i}" for i, name in enumerate(letters)] + [f"ab{i}" for i in range(400)]
    targets, weights = np.concatenate([gold, np.full((400, 1), 0.05)]), np.ones(460)
    means = [
        linear_model.fit(texts, targets, weights=weights, scored=scored).probabilities(texts[:60]).mean()
        for scored in (60, None)
    ]
    assert abs(means[0] - gold.mean()) < 0.1 and means[1] < gold.mean() - 0.2


def test_a_linear_student_learns_it_too(student):
    status, log, taught = student("--unlabelled", "more.txt")
    assert status == 0, log
    _, _, alone = student(teacher=None, name="alone")
    assert dev_f1(taught) > dev_f1(alone) + 0.15


@pytest.mark.parametrize("kind", ["checkpoint", "bundle"])
def test_any_checkpoint_and_any_bundle_teaches(run, trained, bundles, tmp_path, kind):
    """Its probabilities are those of its logits, to the precision of what is kept."""
    dataset, checkpoint = trained["reviews"]
    teacher = checkpoint if kind == "checkpoint" else bundles["reviews"]
    flags = ("--dataset_dir", dataset, "--model_name", "linear", "--save_dir", tmp_path / "student", "--device", "cpu")
    taught = ("--teacher", teacher, "--teacher_cache", tmp_path / "cache", "--unlabelled", "data.txt")
    status, log = run(script.main, *flags, *taught)
    assert status == 0, log
    labels = read_labels(str(dataset / "label.txt"), Problems())
    rows = read_rows(str(dataset / "train.txt"), labels, Problems()).sample(20, 3)
    found = Teacher(str(teacher), labels, "label.txt", Problems())
    kept = probabilities_of(found, [rows.texts], str(tmp_path / "few"), "cpu", 8).take(np.arange(20))
    model, tokenizer = load_pretrained(str(checkpoint), len(labels))
    from text_cls.neural.model import encode

    logits = predict_logits(model, encode(rows.texts, tokenizer, model, 48), 32)
    assert kept == pytest.approx(1 / (1 + np.exp(-logits)), abs=6e-4)


def test_a_student_with_windows(run, lesson, learner, tmp_path):
    flags = "--device cpu --max_seq_length 8 --long_texts windows --epochs 1 --head_start linear".split()
    taught = ("--teacher", lesson[1], "--unlabelled", "more.txt", "--teacher_cache", tmp_path / "cache")
    where = ("--dataset_dir", lesson[0], "--model_name", learner, "--save_dir", tmp_path / "student")
    status, log = run(script.main, *where, *flags, *taught)
    assert status == 0 and "from the features of 24 training rows" in log and "14 per epoch" in log, log


def test_a_resumed_student_is_as_one_that_never_stopped(run, lesson, tiny_model, asked, train, tmp_path):
    """With fewer layers, and words that only the texts without labels use; the teacher is asked once."""
    taught = ("--teacher", lesson[1], "--unlabelled", "more.txt", "--teacher_cache", tmp_path / "cache")
    flags = (*taught, "--layers", 1, "--epochs", 2)
    status, log, whole = train(lesson[0], *flags, save_dir=tmp_path / "whole")
    assert status == 0, log
    folder = tmp_path / "stopped"
    stop_early(lesson[0], lambda data, **where: train(data, *flags, **where), save_dir=folder)
    status, log, _ = train(lesson[0], *flags, "--resume", save_dir=folder)
    assert status == 0 and "resuming at step 1" in log, log
    assert_same_weights(folder, whole)
    assert history(folder) == history(whole) and sum(asked) == 424


def test_resume_refuses_another_teacher_and_other_texts(lesson, train, tmp_path):
    teacher, data = shutil.copytree(lesson[1], tmp_path / "teacher"), shutil.copytree(lesson[0], tmp_path / "data")
    flags = ("--teacher", teacher, "--unlabelled", "more.txt")
    folder = stop_early(data, lambda *words, **where: train(*words, *flags, **where))
    (teacher / "model.safetensors").write_bytes(b"other")
    write_lines(data / "more.txt", ["别的文本"])
    status, log, _ = train(data, *flags, "--resume", save_dir=folder)
    assert status == 2 and "--resume: teacher/model.safetensors is not the file that run started with" in log
    assert "--resume: more.txt is not the file that run started with" in log


def test_layers_are_spread_evenly():
    assert spread(6, 12) == [1, 3, 5, 7, 9, 11] and spread(4, 12) == [2, 5, 8, 11] and spread(1, 12) == [11]
    for available in range(1, 15):
        for count in range(1, available + 1):
            chosen = spread(count, available)
            assert len(set(chosen)) == count and chosen == sorted(chosen) and chosen[-1] == available - 1
            assert chosen[0] >= 0


def test_the_student_has_the_layers_of_its_teacher(run, lesson, tmp_path):
    """Without --model_name; the classifier is fitted again, since the layers below it are others."""
    import make_tiny_model

    flags = "--hidden_size 16 --num_attention_heads 2 --intermediate_size 32 --num_hidden_layers 3".split()
    assert make_tiny_model.main(["--output_dir", str(tmp_path / "tiny"), *flags]) == 0
    where = ("--dataset_dir", lesson[0], "--device", "cpu", "--max_seq_length", 32, "--learning_rate", 0)
    where = (*where, "--epochs", 1)
    teacher, student = tmp_path / "teacher", tmp_path / "student"
    assert run(script.main, *where, "--model_name", tmp_path / "tiny", "--save_dir", teacher)[0] == 0
    status, log = run(script.main, *where, "--teacher", teacher, "--layers", 2, "--save_dir", student)
    assert status == 0 and f"Layers 1 3 of the 3 of {teacher}" in log and "Classifier: linear" in log, log
    mine, theirs = weights(student), weights(teacher)
    for here, there in ((0, 0), (1, 2)):
        name = "ernie.encoder.layers.{}.linear1.weight"
        assert np.array_equal(mine[name.format(here)], theirs[name.format(there)])
    assert (tmp_path / "teacher_probabilities").is_dir()  # the default cache


# ----------------------------------------------------------------------------------------------------------- the cache


def test_the_cache_is_used_until_the_teacher_changes(student, asked, lesson, tmp_path):
    assert student()[0] == 0 and asked == [24]
    status, log, _ = student("--unlabelled", "more.txt", name="second")
    assert status == 0 and asked == [24, 400] and "424 texts; those of 24 are in" in log, log
    assert student("--unlabelled", "more.txt", name="third")[0] == 0 and asked == [24, 400]
    decided = shutil.copytree(lesson[1], tmp_path / "decided")  # another decision does not change a probability
    Decision(0.4).save(str(decided / "decision.json"), NAMES)
    assert student(teacher=decided)[0] == 0 and asked == [24, 400]
    other = student("--seed", 5, teacher=None, name="other")[2]
    assert student(teacher=other)[0] == 0 and asked == [24, 400, 24]


def test_a_damaged_or_missing_part_is_computed_again(student, asked, tmp_path, monkeypatch):
    monkeypatch.setattr(teacher_module, "ROWS", 10)
    assert student()[0] == 0 and asked == [10, 10, 4]
    [small] = [file for file in (tmp_path / "cache").iterdir() if len(np.load(file)) == 4]
    small.write_bytes(small.read_bytes()[:-1])
    assert student()[0] == 0 and asked == [10, 10, 4, 4]
    small.unlink()
    assert student()[0] == 0 and asked == [10, 10, 4, 4, 4]


def test_what_a_kill_left_is_used(student, asked, monkeypatch):
    monkeypatch.setattr(teacher_module, "ROWS", 10)
    with monkeypatch.context() as patch:
        counted = Teacher.probabilities

        def stopped(self, texts):
            if len(asked) == 2:
                raise KeyboardInterrupt
            return counted(self, texts)

        patch.setattr(Teacher, "probabilities", stopped)
        assert student()[0] == 130 and asked == [10, 10]
    status, log, _ = student()
    assert status == 0 and asked == [10, 10, 4] and "Teacher: 4 of 4 texts" in log


def test_other_processes_wait_for_the_first(lesson, tmp_path, monkeypatch):
    labels = read_labels(str(lesson[0] / "label.txt"), Problems())
    texts, folder = lines_of(lesson[0] / "more.txt")[:7], str(tmp_path / "cache")

    def ask():
        return probabilities_of(Teacher(str(lesson[1]), labels, "", Problems()), [texts], folder, "cpu", 8)

    def first_process(_):
        with monkeypatch.context() as patch:
            patch.setattr(teacher_module, "is_main_process", lambda: True)
            ask()

    monkeypatch.setattr(teacher_module, "is_main_process", lambda: False)
    monkeypatch.setattr(teacher_module.time, "sleep", first_process)
    assert ask().take(np.arange(7)).shape == (7, 4)


def test_too_little_space(student, tmp_path, monkeypatch):
    monkeypatch.setattr(teacher_module.shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    status, log, folder = student()
    assert status == 2 and "the teacher's probabilities take 0 MiB" in log and "--teacher_cache" in log
    assert not folder.exists()


# ------------------------------------------------------------------------------------------ texts, labels, refusals


def test_texts_that_are_known_are_left_out_and_counted(student, lesson, tmp_path):
    known = [lines_of(lesson[0] / name)[0].partition("\t")[0] for name in ("train.txt", "dev.txt")]
    write_lines(tmp_path / "more.txt", [*known, "新的", "", "新的", "别的"])
    status, log, _ = student("--unlabelled", tmp_path / "more.txt")
    assert status == 0 and "2 texts without labels; 1 that repeat another" in log, log
    assert "1 that are in" in log and "(learnt there)" in log and "(left out, or its scores would flatter)" in log


def test_a_table_of_texts_and_a_config_file(run, lesson, tmp_path):
    write_lines(tmp_path / "more.csv", ["编号,说明", "1,股票涨了", "2,球赛开始了"])
    lines = [f"teacher: {lesson[1]}", f"unlabelled: {tmp_path / 'more.csv'}", "text_column: 说明", "model_name: linear"]
    write_lines(tmp_path / "flags.yaml", [*lines, f"teacher_cache: {tmp_path / 'cache'}"])
    where = ("--dataset_dir", lesson[0], "--save_dir", tmp_path / "student", "--config", tmp_path / "flags.yaml")
    status, log = run(script.main, *where)
    assert status == 0 and "and of 2 texts without" in log, log


def test_labels_in_another_order_are_mapped(lesson, tmp_path):
    """The file on disk is the same for both."""
    texts, found = lines_of(lesson[0] / "more.txt")[:5], []
    for names in (NAMES, [*reversed(NAMES)]):
        teacher = Teacher(str(lesson[1]), Labels(names), "label.txt", Problems())
        found.append(probabilities_of(teacher, [texts], str(tmp_path), "cpu", 8).take(np.arange(5)))
    assert np.array_equal(found[0], found[1][:, ::-1]) and found[0].std() > 0.1
    assert len([*tmp_path.iterdir()]) == 1


def test_other_labels_are_refused(student, lesson, tmp_path, run):
    data = shutil.copytree(lesson[0], tmp_path / "data")
    write_lines(data / "label.txt", [*NAMES[:3], "军事"])
    for name in ("train.txt", "dev.txt"):
        write_lines(data / name, [line.replace("科技", "军事") for line in lines_of(data / name)])
    where = ("--dataset_dir", data, "--model_name", "linear", "--save_dir", tmp_path / "student")
    status, log = run(script.main, *where, "--teacher", lesson[1])
    assert status == 2 and "(it does not know 军事; only it has 科技). Name a teacher that was trained with" in log


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--teacher_weight", 0.3), "--teacher_weight is the weight of --teacher or --soft_labels; add one of them"),
        (("--unlabelled", "more.txt"), "--unlabelled needs --teacher"),
        (("--teacher_cache", "x"), "--teacher_cache is for the probabilities of --teacher"),
        (("--teacher", "nowhere"), "--teacher nowhere does not exist; train first"),
        (("--teacher", "t", "--soft_labels", "s"), "are two sources of probabilities; leave out one of them"),
        (("--teacher", "checkpoint", "--save_dir", "checkpoint"), "the student would replace its teacher"),
        (("--teacher", "t", "--sheet", "s"), "--sheet is for a table of --unlabelled texts"),
        (("--teacher", "t", "--unlabelled", "no.txt"), "no.txt: No such file or directory"),
        (("--layers", 2), "--layers is for pretrained models; leave out"),
    ],
)
def test_flags_without_meaning_are_refused(student, flags, message):
    status, log, _ = student(*flags, teacher=None)
    assert status == 2 and message in log and "Traceback" not in log, log


def test_a_training_that_learns_nothing_from_the_teacher(lesson, train):
    status, log, _ = train(lesson[0], "--teacher", lesson[1], "--epochs", 0)
    assert status == 2 and "--epochs 0 only fits the classifier to the labels; to learn from --teacher, use 1" in log


def test_layers_that_there_are_not(lesson, bundles, train, run, tmp_path):
    status, log, _ = train(lesson[0], "--layers", 99)
    assert status == 2 and "--layers 99: the model of --model_name has" in log
    status, log, _ = train(lesson[0], "--layers", 1, "--init_from_ckpt", "model.safetensors")
    assert status == 2 and "the weights of --init_from_ckpt have all layers" in log
    where = ("--dataset_dir", lesson[0], "--device", "cpu", "--save_dir", tmp_path / "student")
    status, log = run(script.main, *where, "--teacher", bundles["reviews"], "--layers", 1)
    assert status == 2 and "is a bundle, which cannot be trained; pass the checkpoint that it" in log


def test_a_teacher_that_is_damaged(student, lesson, tmp_path):
    teacher = shutil.copytree(lesson[1], tmp_path / "teacher")
    (teacher / "model.safetensors").write_bytes(b"other")
    status, log, _ = student(teacher=teacher)
    assert status == 2 and "is damaged (model.safetensors: its SHA-256 differs)" in log


# --------------------------------------------------------------------------------------------------------- soft labels


def soft_file(folder, *rows):
    path = folder / "soft.jsonl"
    write_lines(path, [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows])
    return path


def test_soft_labels_of_rows_and_of_other_texts(student, lesson, tmp_path):
    """A text of a labelled row teaches that row; its labels stay."""
    row = lines_of(lesson[0] / "train.txt")[0].partition("\t")[0]
    rows = [{"text": row, "labels": {"财经": 0.5}}, {"text": "球赛", "labels": {"体育": 1, "科技": 0}, "id": 7}]
    status, log, folder = student("--soft_labels", soft_file(tmp_path, *rows), "--teacher_weight", 0.2, teacher=None)
    assert status == 0, log
    assert (
        "Learning from soft.jsonl, with the weight 0.2: probabilities of 1 of 24 rows with labels, and of 1 text" in log
    )
    assert read_run(str(folder))["card"]["teacher"] == {"name": "soft.jsonl", "weight": 0.2, "rows": 1, "texts": 1}


def test_parents_that_are_not_named_are_as_likely_as_their_children(tmp_path):
    labels = Labels(["事故", "事故##车祸", "事故##火灾", "财经"])
    path = soft_file(tmp_path, {"text": "一", "labels": {"事故##车祸": 0.5, "事故##火灾": 0.75}})
    texts, values = read_soft_labels(str(path), labels, Problems())
    assert [*texts] == ["一"] and values.tolist() == [[0.75, 0.5, 0.75, 0]]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("no json", "soft.jsonl:2: no JSON (column 1"),
        ('["list"]', "soft.jsonl:2: each line is {"),
        ('{"labels": {"财经": 1}}', "soft.jsonl:2: each line is {"),
        ('{"text": " ", "labels": {}}', "soft.jsonl:2: each line is {"),
        ('{"text": "b", "labels": ["财经"]}', "soft.jsonl:2: each line is {"),
        ('{"text": "b", "labels": {"财经": 1.5}}', "a probability is a number from 0 to 1, not '1.5'"),
        ('{"text": "b", "labels": {"财经": NaN}}', "a probability is a number from 0 to 1, not 'nan'"),
        ('{"text": "b", "labels": {"财经": true}}', "a probability is a number from 0 to 1, not 'True'"),
        ('{"text": "b", "labels": {"财经": "0.5"}}', "a probability is a number from 0 to 1, not '0.5'"),
        ('{"text": "b", "labels": {"财经": 0.1, "财经": 0.2}}', "soft.jsonl:2: a key appears twice"),
        ('{"text": "b", "labels": {"财经": 0.1, "财经 ": 0.2}}', "appears twice; keep one of them"),
        ('{"text": "b", "labels": {"财金": 0.1}}', "soft.jsonl:2: label '财金' is not in the label file"),
        ('{"text": "a", "labels": {}}', "soft.jsonl:2: the text of line 1 again; keep one of them"),
        ('{"text": "\\ud800", "labels": {}}', "half a surrogate pair"),
        ("[" * 100_000, "nested too deep"),
        ('{"text": "b", "labels": {"财经": ' + "9" * 5000 + "}}", "soft.jsonl:2: "),
    ],
)
def test_faults_in_soft_labels(student, tmp_path, line, message):
    path = soft_file(tmp_path, {"text": "a", "labels": {"财经": 0.9}}, line)
    status, log, _ = student("--soft_labels", path, teacher=None)
    assert status == 2 and message in log and "Traceback" not in log, log


def test_an_empty_file_of_soft_labels(student, tmp_path):
    status, log, _ = student("--soft_labels", soft_file(tmp_path), teacher=None)
    assert status == 2 and "soft.jsonl: no rows; each line is {" in log
