"""few-shot/train.py: flags, whole runs, what they write, unusual labels."""

import json
import re
import shutil

import numpy as np
import pytest
from conftest import lines_of, write_lines
from prompts import HARD, train

import predict
from text_cls.bundle import open_bundle
from text_cls.cli import Problems
from text_cls.decision import Decision
from text_cls.rows import read_rows
from text_cls.serving.predictor import Predictor


def test_switches_take_values_as_in_paddlenlps_trainer():
    need = ["--output_dir", "out"]
    args = train.parse_args([*need, "--do_train", "True", "--do_eval", "--load_best_model_at_end", "false"])
    assert args.do_train and args.do_eval and not args.do_export and not args.load_best_model_at_end
    assert train.parse_args([*need, "--freeze_dropout"]).freeze_plm
    for flags, wanted in (
        (("--eval_steps", "100"), ("steps", "steps", 100)),
        (("--save_steps", "50"), ("epoch", "steps", 50)),
        (("--eval_steps", "100", "--save_strategy", "epoch"), ("steps", "epoch", None)),
    ):
        args = train.parse_args([*need, *flags])
        assert (args.evaluation_strategy, args.save_strategy, args.save_steps) == wanted
    assert train.parse_args(need).load_best_model_at_end
    for flags in (("--do_train", "maybe"), ("--warmup_ratio", "1.5"), ("--ppt_adam_beta1", "1")):
        with pytest.raises(SystemExit):
            train.parse_args([*need, *flags])


@pytest.mark.parametrize("name", ["news", "reviews"])
def test_a_run_writes_a_model_predictions_and_a_bundle(prompted, name):
    dataset, out = prompted[name]
    run = json.loads((out / "run.json").read_text(encoding="utf-8"))
    losses = run["training"]["losses"]
    assert losses[-1] < 0.7 * losses[0] and run["kind"] == "prompt" and run["training"]["best"] > 0
    assert set(run["data"]) == {"label.txt", "train.txt", "dev.txt"}
    assert {path.name for path in out.iterdir()} == set(run["files"]) and not out.with_name("out_last").exists()
    assert lines_of(out / "label.txt") == lines_of(dataset / "label.txt")
    bundle = open_bundle(str(out / "export"))
    upstream = {"model.pdmodel", "model.pdiparams", "template_config.json", "verbalizer_config.json"}
    assert upstream | {"template.json", "model.onnx"} <= set(bundle.manifest["files"])
    assert [tensor["name"] for tensor in bundle.manifest["inputs"]] == ["input_ids", "token_type_ids"]
    rows = read_rows(str(out / "predictions.txt"), bundle.labels, problems := Problems())  # parents included
    assert not problems.count and list(rows.texts) == [line.strip() for line in lines_of(dataset / "data.txt")]
    names = [",".join(names) for names, _ in Predictor(str(out / "export")).predict(list(rows.texts))]
    assert names == [line.partition("\t")[2] for line in lines_of(out / "predictions.txt")] and any(names)


def test_a_trained_model_gives_the_same_results_later(prompted, run, tmp_path):
    """From the folder alone: scores, predictions and bundle of the run that wrote it."""
    dataset, out = prompted["reviews"]
    status, log = run(
        train.main,
        "--data_dir",
        dataset,
        "--resume_from_checkpoint",
        out,
        "--output_dir",
        tmp_path / "new",
        "--device",
        "cpu",
        "--do_eval",
        "--do_predict",
        "--do_export",
    )
    assert status == 0, log
    best = json.loads((out / "run.json").read_text(encoding="utf-8"))["training"]["best"]
    assert "Dev dataset size: 24, accuracy: " in log and f"macro f1 score: {best:.5f}" in log
    assert "Test dataset size: 24" in log and "input data: " in log
    assert (tmp_path / "new" / "predictions.txt").read_bytes() == (out / "predictions.txt").read_bytes()
    old, new = (open_bundle(str(folder / "export")) for folder in (out, tmp_path / "new"))
    for name in ("template.json", "label.txt", "verbalizer_config.json"):
        assert old.manifest["files"][name] == new.manifest["files"][name], name
    first, second = (Predictor(bundle.folder) for bundle in (old, new))
    assert np.array_equal(first.probabilities(HARD), second.probabilities(HARD))
    assert new.manifest["max_seq_length"] == 48  # as in training


def test_the_decision_in_the_folder_is_used(prompted, run, tmp_path):
    dataset, out = prompted["news"]
    shutil.copytree(out, tmp_path / "out")
    wanted = Decision(0.2, min_k=1, max_k=3, temperature=1.5, hierarchy="best_set")
    wanted.save(tmp_path / "out" / "decision.json")
    where = ("--data_dir", dataset, "--output_dir", tmp_path / "out", "--device", "cpu")
    status, log = run(train.main, *where, "--do_eval", "--do_predict", "--do_export")
    assert status == 0, log
    best = json.loads((out / "run.json").read_text(encoding="utf-8"))["training"]["best"]
    assert "Dev dataset size: 24" in log and f"macro f1 score: {best:.5f}" not in log
    predictor = Predictor(str(tmp_path / "out" / "export"))
    assert predictor.decision == wanted
    rows = [line.split("\t") for line in lines_of(tmp_path / "out" / "predictions.txt")]
    assert [names for _, names in rows] == [
        ",".join(names) for names, _ in predictor.predict([text for text, _ in rows])
    ]
    assert lines_of(out / "predictions.txt") != lines_of(tmp_path / "out" / "predictions.txt")


def test_without_data_txt_the_test_rows_are_predicted(train_prompt, few, tmp_path):
    (few / "data.txt").unlink()
    status, log = train_prompt("--do_train", "--do_predict", "--prompt", "{'soft': '这'}是")
    assert "A row: [CLS] <text> <soft> 是 [MASK] [SEP]" in log and re.search(r"train: .* of the rows cut at 40", log)
    assert status == 0 and len(lines_of(tmp_path / "out" / "predictions.txt")) == len(lines_of(few / "test.txt")), log
    (few / "test.txt").unlink()
    status, log = train_prompt("--do_train", "--do_predict")
    assert status == 2 and f"--data_dir {few}: there is no data.txt and no test.txt" in log
    assert train_prompt("--do_train")[0] == 0  # test.txt is not needed


def test_other_scripts_do_not_accept_it_as_a_classifier(prompted, run):
    dataset, out = prompted["reviews"]
    status, log = run(predict.main, "--dataset_dir", dataset, "--params_path", out, "--device", "cpu")
    assert status == 2 and "holds a prompt model; name a folder that train.py wrote" in log


def test_labels_and_words_may_be_anything(train_prompt, tmp_path):
    names = ["<b>&\"'", "😀", "长" * 300, "a##b", "a", "{'mask'}", "[MASK]"]
    words = ["<i>", "😀😀", "词" * 300, "\"'", "[UNK]", "[MASK]", "{}"]
    data = tmp_path / "odd"
    data.mkdir()
    write_lines(data / "label.txt", [f"{name}=={word}" for name, word in zip(names, words)])
    rows = [f"第{i}行 <script> {name}\t{name}" for i, name in enumerate(names)]
    rows += ["全部\t" + ",".join(names), "😀" * 700 + "\t", "长" * 2000 + "\ta"]
    for split in ("train", "dev"):
        write_lines(data / f"{split}.txt", rows)
    write_lines(data / "data.txt", rows)
    status, log = train_prompt("--do_train", "--do_eval", "--do_predict", data=data)
    assert status == 0, log
    assert len(lines_of(tmp_path / "out" / "predictions.txt")) == len(rows)
    assert lines_of(tmp_path / "out" / "label.txt") == names


def test_words_that_the_model_does_not_know_are_reported(train_prompt, few):
    """One known token is enough."""
    labels = lines_of(few / "label.txt")
    write_lines(few / "label.txt", [f"{labels[0]}==😀😀", f"{labels[1]}==干净", f"{labels[1]}==净😀", *labels[2:]])
    status, log = train_prompt("--do_train")
    assert status == 0 and f"The model knows no token of 1 label words: {labels[0]}==😀😀. Choose others" in log, log


def test_files_beside_a_bundle_are_not_lost(train_prompt, tmp_path):
    """But the temporary files of a killed run are."""
    assert train_prompt("--do_train")[0] == 0
    own = "0123456789abcdef.tmp"  # as in files.py; the first is of 0.1.0
    for name in ("export.tmp", f"export.{own}", f"export.{own}.lock", "export.lock", f"predictions.txt.{own}"):
        (tmp_path / "out" / name).mkdir()
    export = tmp_path / "out" / "export"
    export.mkdir()
    for name in ("model.pdmodel", "model.pdiparams", "template_config.json", "verbalizer_config.json"):
        (export / name).touch()  # as PaddleNLP's application writes it
    (export / "notes.txt").touch()
    status, log = train_prompt("--do_train")
    assert status == 2 and f"--output_dir {export}: the folder holds notes.txt, which would be lost" in log
    (export / "notes.txt").unlink()
    status, log = train_prompt("--do_train")
    assert status == 0 and not export.exists() and not list((tmp_path / "out").glob("export*")), log


def test_a_trained_model_whose_run_was_edited(run, prompted, tmp_path):
    dataset, out = prompted["reviews"]
    shutil.copytree(out, tmp_path / "out")
    path = tmp_path / "out" / "run.json"
    whole = json.loads(path.read_text(encoding="utf-8"))
    for name in ("prompt", "label_words"):
        path.write_text(json.dumps({key: value for key, value in whole.items() if key != name}), encoding="utf-8")
        status, log = run(train.main, "--data_dir", dataset, "--output_dir", tmp_path / "out", "--do_eval")
        assert status == 2 and f"run.json: {name} is missing; train again, or" in log and "Traceback" not in log
