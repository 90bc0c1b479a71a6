"""The model cards of checkpoints, bundles and Hugging Face folders, as the scripts write and update them"""

import json
import os
import re
import shutil

import pytest
import yaml
from conftest import ROOT, copy_dataset, lines_of, load_script

import export_model
from text_cls.bundle import open_bundle
from text_cls.cli import UserError
from text_cls.decision import Decision
from text_cls.files import sha256
from text_cls.neural import checkpoint as module
from text_cls.neural.checkpoint import read_run
from text_cls.neural.run_file import damage


def card_of(folder):
    return (folder / "README.md").read_text(encoding="utf-8")


def assert_whole(folder):
    """The card is among the files with a sum, and its metadata can be read."""
    file = "manifest.json" if (folder / "manifest.json").exists() else "run.json"
    files = json.loads((folder / file).read_text(encoding="utf-8"))["files"]
    assert files["README.md"] == sha256(folder / "README.md")
    header = yaml.safe_load(card_of(folder).split("---\n")[1])
    assert header["pipeline_tag"] == "text-classification" and header["language"] == ["zh"], header
    return header


def assert_no_texts(dataset, *folders):
    """No text of the data set's rows is in the card, run.json or manifest.json, nor is the folder of the data set."""
    texts = [line.split("\t")[0] for name in ("train", "dev") for line in lines_of(dataset / f"{name}.txt")]
    for folder in folders:
        names = [name for name in ("README.md", "manifest.json") if (folder / name).exists()]
        written = "".join((folder / name).read_text(encoding="utf-8") for name in names)
        assert not [text for text in texts if text in written] and str(dataset.parent) not in written


def test_a_checkpoint_and_its_bundle(trained, bundles):
    dataset, checkpoint = trained["news"]
    text = card_of(checkpoint)
    header = assert_whole(checkpoint)
    history = read_run(str(checkpoint))["progress"]["history"]
    best = max(entry["macro_f1"] for entry in history)
    values = {metric["name"]: metric["value"] for metric in header["model-index"][0]["results"][0]["metrics"]}
    assert values["macro F1"] == pytest.approx(best, abs=1e-5)
    for name, rows in (("train", 600), ("dev", 60)):
        line = rf"\| `{name}.txt` \| .* \| {rows} \| [\d.]+ \| [\d.]+% \| `{sha256(dataset / f'{name}.txt')}` \|"
        assert re.search(line, text)
    shown = set(re.search(r"`train.py` with `--(.*?)`; its other arguments had their defaults", text)[1].split(" --"))
    expected = {
        "device cpu",
        "max_seq_length 48",
        "epochs 12",
        "learning_rate 0.002",
        "batch_size 8",
        "head_start random",
    }
    assert shown == expected
    support = [line.split("\t")[1].split(",") for line in lines_of(dataset / "train.txt") if "\t" in line]
    few = [name for name in lines_of(dataset / "label.txt") if sum(name in names for names in support) < 10]
    assert f"{len(few)} of 55 labels have fewer than 10 training rows" in text
    assert_no_texts(dataset, checkpoint, bundles["news"])
    assert assert_whole(bundles["news"])["library_name"] == "onnx"
    of_bundle = card_of(bundles["news"])
    of_checkpoint, of_bundle = (re.search("## Data.*(?=## Use)", text, re.S)[0] for text in (text, of_bundle))
    assert of_bundle == of_checkpoint


def test_the_test_rows_and_the_time_are_added_at_the_end(news, train):
    _, log, folder = train(news, "--test_file", "dev.txt", "--epochs", 2)
    found = re.findall(r"\| `dev.txt`, 30 rows \| (.*) \|", card_of(folder))
    assert len(found) == 2 and found[0] == found[1] and assert_whole(folder)
    card = read_run(str(folder))["card"]
    assert card["seconds"] > 0 and card["data"]["test"]["rows"] == 30
    micro = re.search(r"Test dataset size.*micro f1 score: ([\d.]+)", log)[1]
    assert card["scores"]["test"]["micro_f1"][0] == pytest.approx(float(micro), abs=1e-5)


def test_fitted_thresholds_have_scores_of_their_own(trained, train):
    dataset, model = trained["news"]
    _, log, folder = train(dataset, "--metric_for_best", "tuned_macro_f1", "--model_name", model)
    line = re.search(r"^\| rows \| .*", card_of(folder), re.M)[0]
    assert line.count("fitted thresholds") == 3 and "a threshold per label, from" in card_of(folder)


def test_a_checkpoint_of_an_older_version(trained, run, tmp_path):
    """Its run.json has no facts for the card, and its files no README.md."""
    folder = shutil.copytree(trained["news"][1], tmp_path / "old")
    (folder / "README.md").unlink()
    fields = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    del fields["card"], fields["files"]["README.md"]
    (folder / "run.json").write_text(json.dumps(fields), encoding="utf-8")
    status, log = run(export_model.main, "--params_path", folder, "--output_path", tmp_path / "export")
    text = card_of(tmp_path / "export")
    assert status == 0 and "its arguments are unknown" in text and "Rows per label: unknown" in text
    assert "| dev rows | " in text and " to " not in re.search(r"\| dev rows .*", text)[0]


def test_threshold_updates_the_card(run, trained, bundle, tmp_path):
    import threshold

    dataset, model = trained["news"]
    copy = shutil.copytree(model, tmp_path / "model")
    for flag, folder in (("--params_path", copy), ("--bundle", bundle)):
        before = card_of(folder)
        where = ("--dataset_dir", dataset, flag, folder, "--device", "cpu", "--force", "--mode", "single")
        status, log = run(threshold.main, *where, "--min_k", 1)
        assert status == 0, log
        text = card_of(folder)
        assert "at least 1 label" in text and "The decision has changed since" in text and text != before
        assert assert_whole(folder)
    assert not damage(str(copy), read_run(str(copy))["files"]) and open_bundle(str(bundle)).decision.min_k == 1


@pytest.mark.parametrize("step", ["save", "write_card", "sha256"])
def test_an_update_that_is_cut_off_leaves_a_checkpoint_that_is_whole(trained, tmp_path, monkeypatch, step):
    copy = shutil.copytree(trained["news"][1], tmp_path / "model")
    run = read_run(str(copy))
    labels = module.load_checkpoint(str(copy), None, module.Problems()).labels

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(*((Decision, "save") if step == "save" else (module, step)), killed)
    with pytest.raises(KeyboardInterrupt):
        module.update_checkpoint(str(copy), run, labels, Decision(min_k=1))
    assert not damage(str(copy), read_run(str(copy))["files"])


def test_a_bundle_with_another_card_is_refused(bundle):
    (bundle / "README.md").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match="README.md is not the file of this bundle"):
        open_bundle(str(bundle))


def test_a_pruned_width_has_its_own_scores(trained, run, tmp_path):
    import prune

    dataset, model = trained["news"]
    where = ("--output_dir", tmp_path, "--dataset_dir", dataset, "--params_dir", model)
    flags = "--device cpu --max_seq_length 32 --num_train_epochs 1 --width_mult_list 1/2 --no-refit_head".split()
    status, log = run(prune.main, *where, *flags)
    assert status == 0, log
    text, header = card_of(tmp_path / "width_mult_0.5"), assert_whole(tmp_path / "width_mult_0.5")
    assert "pruned to 0.5 of its heads and neurons" in text and "--width_mult_list 1/2" in text
    micro = header["model-index"][0]["results"][0]["metrics"][0]["value"]
    assert f"{100 * micro:.2f}" == re.search(r"^.*\b1/2 +([\d.]+)", log, re.M)[1]
    assert_no_texts(dataset, tmp_path / "width_mult_0.5")


def test_few_shot(prompted):
    dataset, folder = prompted["news"]
    for each in (folder, folder / "export"):
        text = card_of(each)
        assert (
            assert_whole(each) and "`few-shot/train.py` with `--" in text and "| `train.txt` | training | 48 |" in text
        )
        assert re.search(r"\| `dev.txt`, 24 rows \| [\d.]+ \(", text)
        assert_no_texts(dataset, each)


def test_retrieval(run, learner, tmp_path):
    data = copy_dataset(ROOT / "data", tmp_path / "data", 90, 30, 12)
    files = ("--train_set_file", data / "train.txt", "--corpus_file", data / "label.txt")
    files += ("--similar_text_pair_file", data / "dev.txt", "--model_name_or_path", learner)
    flags = "--device cpu --max_seq_length 32 --epochs 1 --output_emb_size 0".split()
    main = {name: load_script(f"retrieval_based/{name}.py").main for name in ("train", "export_model", "index")}
    assert run(main["train"], *files, *flags, "--save_dir", tmp_path / "model")[0] == 0
    where = ("--params_path", tmp_path / "model", "--output_path", tmp_path / "bundle")
    assert run(main["export_model"], *where)[0] == 0
    for folder in (tmp_path / "model", tmp_path / "bundle"):
        text = card_of(folder)
        assert assert_whole(folder) and "nearest vectors" in text and "`retrieval_based/train.py` with `--" in text
        assert "| `train.txt` | training | 89 |" in text  # without the row that has no label
        assert_no_texts(data, folder)
    add = (
        "add",
        "--bundle",
        tmp_path / "bundle",
        "--device",
        "cpu",
        "--label",
        "体育赛事##马拉松",
        "--text",
        "马拉松开跑",
    )
    status, log = run(main["index"], *add)
    assert status == 0, log
    text = card_of(tmp_path / "bundle")
    assert "It knows 56 labels" in text and "马拉松开跑" not in text and assert_whole(tmp_path / "bundle")
    assert os.listdir(tmp_path)
