"""Faults that `train.py` reports before its first step: the user's, and those that its rehearsal finds."""

import re
import shutil

import numpy as np
import pytest
from conftest import lines_of, write_lines
from training_runs import weights

from text_cls.neural import training
from text_cls.neural.evaluation import Evaluation
from text_cls.neural.steps import Steps


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--device", "gpu"), "is built without gpu; use --device cpu"),
        (("--amp", "bf16"), "--amp bf16 is for --device gpu"),
        (("--init_from_ckpt", "nowhere.pdparams"), "--init_from_ckpt nowhere.pdparams: no such file"),
        (("--model_name", "./nowhere"), "--model_name ./nowhere: no such folder"),
        (("--max_seq_length", 2), "--max_seq_length: the special tokens alone take 2"),
        (("--max_seq_length", 4096), "--max_seq_length 4096: this model takes at most 2048 tokens"),
        (("--dev_file", "nothing.txt"), "nothing.txt: No such file or directory"),
    ],
)
def test_a_fault_is_one_line_and_status_2(news, train, flags, message):
    status, log, folder = train(news, *flags)
    errors = [line for line in log.splitlines() if line.startswith("error: ")]
    assert status == 2 and len(errors) == 1 and message in errors[0] and "Traceback" not in log
    assert log.splitlines()[-1] == errors[0] and not folder.exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--batch_size", 0), "--batch_size: must be a whole number of at least 1, not '0'"),
        (("--learning_rate", "-1"), "--learning_rate: must be a number of at least 0, not '-1'"),
        (("--learning_rate", "nan"), "--learning_rate: must be a number of at least 0, not 'nan'"),
        (("--loss", "hinge"), "invalid choice: 'hinge'"),
        (("--metric_for_best", "f2"), "invalid choice: 'f2'"),
        (("--epoch", 3), "unrecognized arguments: --epoch"),
    ],
)
def test_a_flag_with_a_fault(news, train, flags, message):
    status, log, _ = train(news, *flags)
    assert status == 2 and message in log


def test_all_faults_of_arguments_and_data_at_once(news, train):
    write_lines(news / "train.txt", [*lines_of(news / "train.txt"), "一\t体育赛事##夺官", "二\t三\t四"])
    write_lines(news / "dev.txt", [*lines_of(news / "dev.txt"), "五\t没有的"])
    status, log, _ = train(news, "--device", "gpu", "--init_from_ckpt", "nowhere", "--test_file", "nothing.txt")
    assert status == 2 and "6 problems, nothing was done:" in log
    for message in (
        "use --device cpu",
        "--init_from_ckpt nowhere: no such file",
        "train.txt:91: label '体育赛事##夺官' is not in the label file; did you mean '体育赛事##夺冠'?",
        "train.txt:92: 2 tabs",
        "dev.txt:31: label '没有的' is not in the label file",
        "nothing.txt: No such file",
    ):
        assert message in log


def test_a_broken_label_file_is_reported_alone(news, train):
    """Otherwise every row would look wrong."""
    write_lines(news / "label.txt", ["体育赛事", "体育赛事"])
    status, log, _ = train(news)
    assert status == 2 and "label '体育赛事' is already on line 1" in log and "train.txt" not in log


def test_summary_before_training(news, train):
    rows = lines_of(news / "train.txt")
    child = next(row for row in rows if row.count("##") == 1).partition("\t")[0]
    write_lines(news / "train.txt", [*rows, "", "无标签的一行", "只写了子标签\t体育赛事##夺冠", f"{child}\t文化娱乐"])
    write_lines(news / "dev.txt", [*lines_of(news / "dev.txt"), rows[0]])
    status, log, _ = train(news)
    assert status == 0
    assert "55 labels, hierarchical" in log and "93 rows" in log and "1 blank lines skipped" in log
    assert "1 rows name a child but not its parent; the parents were added" in log
    assert "1 rows repeat the text of another row" in log and "1 of them have other labels than that row" in log
    assert "1 rows have a text that is also in" in log and "labels have no row and cannot be learnt" in log
    assert re.search(r"train: [\d.]+ tokens per row, [\d.]+% of the rows cut at 32", log)


def test_a_folder_with_other_files_is_not_replaced(news, train, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "thesis.docx").touch()
    status, log, _ = train(news, save_dir=folder)
    assert status == 2 and "the folder holds thesis.docx, which would be lost; name a new folder" in log
    shutil.move(folder, f"{folder}_last")
    assert "mine_last: the folder holds thesis.docx, which would be lost" in train(news, save_dir=folder)[1]
    shutil.move(f"{folder}_last", folder)
    status, log, _ = train(news, save_dir=folder / "thesis.docx")
    assert status == 2 and "this is a file; name a folder" in log


def test_a_checkpoint_is_replaced_but_not_with_other_files_in_its_folder(news, train):
    _, _, folder = train(news)
    assert train(news)[0] == 0
    (folder / "notes.txt").touch()
    status, log, _ = train(news)
    assert status == 2 and "the folder holds notes.txt, which would be lost" in log


def test_a_checkpoint_of_paddlenlps_application_is_replaced(news, train):
    _, _, folder = train(news)
    for name in ("run.json", "label.txt", "decision.json"):
        (folder / name).unlink()
    assert train(news)[0] == 0 and (folder / "run.json").exists()


def test_weights_that_do_not_fit(news, reviews, train, tmp_path):
    _, _, folder = train(reviews, save_dir=tmp_path / "other")
    status, log, _ = train(news, "--init_from_ckpt", folder / "model_state.pdparams")
    assert status == 2 and "classifier.weight is [32, 19], expected [32, 55]" in log
    (tmp_path / "broken").write_bytes(b"no weights")
    status, log, _ = train(news, "--init_from_ckpt", tmp_path / "broken")
    assert status == 2 and "not a file of weights" in log


@pytest.mark.parametrize("flag", ["--init_from_ckpt", "--model_name"])
def test_a_model_whose_labels_have_another_order(news, train, tmp_path, flag):
    """Its outputs would start as those of other labels."""
    _, _, folder = train(news)
    start = (flag, folder / "model_state.pdparams" if flag == "--init_from_ckpt" else folder)
    names = (news / "label.txt").read_text(encoding="utf-8").splitlines(True)
    (news / "label.txt").write_text("".join(names[::-1]), encoding="utf-8")
    other = tmp_path / "other"
    status, log, _ = train(news, *start, save_dir=other)
    order = f"{news}/label.txt is not the model's label file (the same labels in another order)"
    assert status == 2 and f"{order}. To use the model's: cp {folder}/label.txt {news}/label.txt" in log
    for name in ("run.json", "label.txt"):  # config.json knows them, too
        (folder / name).unlink()
    status, log, _ = train(news, *start, save_dir=other)
    assert status == 2 and f"{order}. The model's labels are in {folder}/config.json" in log
    (news / "label.txt").write_text("".join(names), encoding="utf-8")
    status, log, _ = train(news, *start, save_dir=other)
    assert status == 0 and "is not the model's label file" not in log


def test_a_model_with_other_labels_is_a_warning(news, train, tmp_path):
    _, _, folder = train(news)
    (folder / "config.json").unlink()
    text = (folder / "label.txt").read_text(encoding="utf-8").replace("灾害事故##地震", "灾害事故##地动")
    (folder / "label.txt").write_text(text, encoding="utf-8")
    (folder / "run.json").unlink()
    start = ("--init_from_ckpt", folder / "model_state.pdparams")
    status, log, _ = train(news, *start, save_dir=tmp_path / "other")
    what = f"{news}/label.txt is not the model's label file (also 灾害事故##地震; not 灾害事故##地动)"
    assert status == 0 and f"{what}. Each output starts from the weights of the model's label in its place" in log
    (folder / "config.json").write_text('{"id2label": {"1": "A"}}', encoding="utf-8")
    status, log, _ = train(news, *start, save_dir=tmp_path / "another")
    assert status == 0 and "not None). Each output starts from" in log


@pytest.mark.parametrize("where", [(Evaluation, "evaluate"), (training.Trainer, "save")])
def test_a_fault_in_evaluation_or_saving_shows_before_training(news, train, monkeypatch, where):
    def fail(*_, **__):
        raise RuntimeError("broken")

    monkeypatch.setattr(*where, fail)
    monkeypatch.setattr(training.Trainer, "run_all", lambda self: pytest.fail("training began"))
    with pytest.raises(RuntimeError, match="broken"):
        train(news)


def test_the_rehearsal_leaves_no_trace(news, train, tiny_model, monkeypatch):
    """Step 0 is saved with the weights of the initial model and without moments."""
    monkeypatch.setattr(training.Trainer, "run_all", lambda self: 0)
    status, _, folder = train(news)
    before, after = weights(tiny_model), weights(f"{folder}_last")
    assert status == 0 and all(np.array_equal(after[f"ernie.{name}"], value) for name, value in before.items())
    with np.load(f"{folder}_last/training_state.npz") as state:
        assert state.files == []


def test_out_of_memory_names_the_remedy(news, train, monkeypatch):
    def fail(*_, **__):
        raise MemoryError("ResourceExhaustedError: Out of memory error on GPU 0")

    monkeypatch.setattr(Steps, "backward", fail)
    status, log, _ = train(news)
    assert status == 2 and "halve the batch and use --gradient_accumulation_steps 2" in log
