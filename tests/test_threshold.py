import html
import json
import re
import shutil
from pathlib import Path

import pytest
from conftest import lines_of, write_lines

import evaluate
import threshold as script
from text_cls.decision import Decision


@pytest.fixture
def tune(run, trained, bundles, tmp_path):
    """tune(task, *flags, bundle=False) -> (status, log, folder whose decision.json may have changed)."""

    def call(task, *flags, bundle=False, edit=None):
        dataset, model = trained[task]
        data, target = tmp_path / "data", tmp_path / "target"
        if not target.exists():
            shutil.copytree(dataset, data)
            shutil.copytree(bundles[task] if bundle else model, target)
        if edit:
            edit(data)
        where = ("--dataset_dir", data, "--bundle" if bundle else "--params_path", target)
        status, log = run(script.main, *where, "--device", "cpu", *flags)
        return status, log, target

    return call


@pytest.mark.parametrize("task", ["news", "reviews"])
def test_what_it_writes_is_what_evaluate_decides_by(tune, run, tmp_path, task):
    status, log, model = tune(task, "--objective", "macro", "--force")
    assert status == 0, log
    names = ("0.5", "one threshold: 0.", "one threshold per label", "the better of the two")
    table = log[log.index("micro P") :].splitlines()
    lines = table[1:5]
    for line, name in zip(lines, names, strict=True):
        assert f" {name}" in line
    number = r"([+-]\d+\.\d\d)"
    logged = re.search(rf"[Ww]orth it.* macro F1: {number} points, 95% interval {number} to {number}", log).groups()
    assert logged == re.search(rf"{number} \({number} to {number}\)", lines[3]).groups()
    decision = Decision.load(model / "decision.json")
    assert decision.threshold != 0.5
    report = tmp_path / "report.json"
    where = ("--dataset_dir", tmp_path / "data", "--params_path", model, "--device", "cpu", "--report_file", report)
    scores = []
    for each in (decision, Decision()):
        each.save(model / "decision.json", lines_of(model / "label.txt"))
        assert run(evaluate.main, *where)[0] == 0
        scores.append(json.loads(report.read_text(encoding="utf-8"))["macro"]["f1"])
    assert scores[0] > scores[1]  # on the rows it was fitted to, it must
    assert lines[0].split()[-2] == f"{100 * scores[1]:.2f}"  # of macro F1, before exact


def test_the_page_says_what_the_log_says(tune, tmp_path):
    page = tmp_path / "page.html"
    status, log, _ = tune("news", "--dry_run", "--html", page)
    assert status == 0 and f"Page saved in {page}" in log, log
    text = html.unescape(page.read_text(encoding="utf-8"))
    assert re.search(r"(Worth it|Not worth it).*95% interval .*", log)[0] in text
    for figure in re.findall(r"\d+\.\d\d", log[log.index("the better of the two") :].splitlines()[0])[:5]:
        assert f">{figure}</td>" in text
    assert text.count("<svg") == 2 * len(lines_of(tmp_path / "data" / "label.txt"))  # in both languages
    status, log, _ = tune("news", "--dry_run", "--html", tmp_path)
    assert status == 2 and f"{tmp_path} is a folder; name a file" in log


def test_a_bundle_stays_complete(tune):
    from text_cls.serving import predictor

    status, log, folder = tune(
        "news", "--mode", "single", "--force", "--hierarchy", "one_per_level", "--min_k", "1", bundle=True
    )
    assert status == 0, log
    served = predictor.Predictor(str(folder))  # checks every file against the manifest
    assert served.decision == Decision.load(folder / "decision.json")
    assert served.decision.hierarchy == "one_per_level" and served.decision.min_k == 1
    assert all(len(names) for names, _ in served.predict(["一场比赛", "地震了"]))


def test_other_files_in_a_bundles_folder_are_not_lost(tune):
    status, _, folder = tune("news", "--dry_run", bundle=True)
    (folder / "notes.txt").write_text("mine", encoding="utf-8")
    before = (folder / "decision.json").read_text(encoding="utf-8")
    status, log, _ = tune("news", "--force", bundle=True)
    assert status == 2 and "also has notes.txt, which would be lost" in log
    assert (folder / "decision.json").read_text(encoding="utf-8") == before and (folder / "notes.txt").exists()


def test_a_checkpoint_that_a_training_replaced_keeps_its_decision(tune, monkeypatch):
    """The lock keeps trainings away, but not one on another computer, or on a file system without locks."""
    choose = script.choose

    def replaced(*arguments):
        path = Path(arguments[0].params_path, "run.json")
        path.write_text(path.read_text(encoding="utf-8").replace('"best_score": ', '"best_score": 1'), encoding="utf-8")
        return choose(*arguments)

    monkeypatch.setattr(script, "choose", replaced)
    status, log, model = tune("news", "--force")
    assert status == 2 and f"{model} was replaced by a training meanwhile; run it again" in log
    assert Decision.load(model / "decision.json").threshold == 0.5


def test_a_gain_that_may_be_chance_is_not_written(tune):
    def edit(data):
        """Labels that belong to other texts: nothing can be learnt from them."""
        rows = [line.partition("\t") for line in lines_of(data / "dev.txt")]
        labels = [row[2] for row in rows]
        write_lines(data / "dev.txt", [f"{row[0]}\t{label}" for row, label in zip(rows, labels[7:] + labels[:7])])

    status, log, model = tune("reviews", "--objective", "exact", "--dry_run", edit=edit)
    before = (model / "decision.json").read_text(encoding="utf-8")
    assert status == 0 and "Nothing written" in log
    status, log, _ = tune("reviews", "--objective", "exact")
    assert status == 0 and "Not worth it" in log and "is unchanged; --force" in log
    assert (model / "decision.json").read_text(encoding="utf-8") == before


def test_targets(tune):
    status, log, model = tune("reviews", "--target_recall", "0.6")
    assert status == 0 and "Decision saved" in log, log
    assert Decision.load(model / "decision.json").threshold < 0.5
    before = (model / "decision.json").read_text(encoding="utf-8")

    def edit(data):
        """Each text again, without its labels: no label predicted for it is right both times."""
        rows = lines_of(data / "dev.txt")
        write_lines(data / "dev.txt", rows + [row.partition("\t")[0] + "\t" for row in rows])

    status, log, model = tune("reviews", "--target_precision", "1", edit=edit)
    assert status == 0 and "Precision 1 is not reached: 0." in log and "is unchanged; --force" in log
    assert (model / "decision.json").read_text(encoding="utf-8") == before
    status, log, model = tune("reviews", "--target_precision", "1", "--mode", "per_label", "--force")
    assert status == 0 and len(Decision.load(model / "decision.json").threshold) == len(lines_of(model / "label.txt"))


@pytest.mark.parametrize(
    "target", [(), ("--target_recall", "0.9"), ("--target_precision", "0.9", "--mode", "per_label")]
)
def test_rows_that_nothing_can_be_fitted_to(tune, target):
    def one_text(data):
        write_lines(data / "dev.txt", [f"一样的话\t{lines_of(data / 'label.txt')[0]}"] * 60)

    status, log, model = tune("reviews", *target, edit=one_text)
    assert status == 2 and "fewer than 3 different texts say nothing about other rows" in log
    status, log, _ = tune(
        "reviews", *target, edit=lambda data: write_lines(data / "dev.txt", [f"第{i}句\t" for i in range(60)])
    )
    assert status == 2 and "no row has a label; a row is text<TAB>label,label" in log
    assert Decision.load(model / "decision.json") == Decision()


def test_temperature(tune):
    status, log, model = tune("news", "--temperature", "--force")
    found = re.search(r"Temperature (\d\.\d+) \(log-loss (0\.\d+), without (0\.\d+)", log)
    assert status == 0 and found, log
    temperature, fitted, before = map(float, found.groups())
    assert fitted < before and abs(temperature - 1) > 0.01
    assert Decision.load(model / "decision.json").temperature == pytest.approx(temperature, abs=0.0005)


def test_faults(tune):
    status, log, _ = tune(
        "news", "--target_precision", "0.9", "--target_recall", "0.9", "--folds", "1", "--device", "gpu"
    )
    assert status == 2 and "use only one" in log and "--folds: use 2" in log and "use --device cpu" in log

    def edit(data):
        write_lines(data / "few.txt", lines_of(data / "dev.txt")[:20])

    status, log, _ = tune("news", "--dev_file", "few.txt", edit=edit)
    assert status == 2 and "20 rows are too few" in log
    status, log, _ = tune("news", "--max_seq_length", "100000")
    assert status == 2 and "this model takes at most 2048 tokens" in log
    status, log, _ = tune("news", "--min_k", "3", "--max_k", "2")
    assert status == 2 and "--max_k 2 is below min_k 3" in log


@pytest.mark.parametrize("task", ["news", "reviews"])
def test_rows_of_every_kind(tune, task):
    """No label, twenty labels, 2,000 characters, an emoji; and labels that no row has."""

    def edit(data):
        names = lines_of(data / "label.txt")
        flat = [name for name in names if "##" not in name][:20]
        odd = ["没有标签的一行", f"二十个\t{','.join(flat)}", f"{'长' * 2000}\t{names[0]}", f"😀\t{names[0]}"]
        write_lines(data / "dev.txt", odd * 20)

    status, log, _ = tune(task, "--mode", "per_label", "--dry_run", edit=edit)
    assert status == 0 and "one threshold per label" in log, log


@pytest.mark.parametrize("device", ["xpu", "gpu:x", "gpu:"])
def test_devices_that_no_bundle_runs_on(tune, device):
    status, log, _ = tune("news", "--device", device, bundle=True)
    assert status == 2 and f"--device {device}: a bundle runs on cpu, gpu, or one card: gpu:0" in log
