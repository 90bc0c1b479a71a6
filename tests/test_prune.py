import json
import os
import re
from fractions import Fraction

import numpy as np
import paddle
import pytest
from conftest import lines_of

import infer
import prune as script
from text_cls.bundle import open_bundle
from text_cls.cli import Problems
from text_cls.decision import Decision
from text_cls.neural.checkpoint import Checkpoint, load_checkpoint
from text_cls.neural.head_start import fit, label_rates
from text_cls.neural.model import encode, last_linear, load_pretrained, predict_features
from text_cls.rows import read_labels, read_rows


@pytest.fixture
def wide(run, train, news, tmp_path):
    """A data set, and the checkpoint of a small ERNIE with 12 heads, trained on it briefly."""
    import make_tiny_model

    flags = "--hidden_size 48 --num_attention_heads 12 --num_hidden_layers 2 --intermediate_size 96 --dropout 0".split()
    assert run(make_tiny_model.main, "--output_dir", tmp_path / "wide", *flags)[0] == 0
    status, log, checkpoint = train(news, "--model_name", tmp_path / "wide", "--epochs", 3)
    assert status == 0, log
    return news, checkpoint


def prune(run, dataset, checkpoint, folder, *flags):
    quick = ("--device", "cpu", "--max_seq_length", 32, "--num_train_epochs", 1, "--per_device_train_batch_size", 16)
    where = ("--dataset_dir", dataset, "--params_dir", checkpoint, "--output_dir", folder)
    return run(script.main, *where, *quick, *flags)


def test_each_width_is_a_bundle_that_is_served(run, wide, tmp_path):
    """Six steps with --save_steps 100: PaddleNLP's application then exports nothing."""
    dataset, checkpoint = wide
    status, log = prune(run, dataset, checkpoint, tmp_path / "prune", "--width_mult_list", "3/4", "'2/3'", "0.5")
    assert status == 0, log
    assert sorted(os.listdir(tmp_path / "prune")) == ["width_mult_0.5", "width_mult_0.67", "width_mult_0.75"]
    sizes = []
    for folder in sorted((tmp_path / "prune").iterdir()):
        guide = {f"pruned_model.{end}" for end in ("pdiparams", "pdiparams.info", "pdmodel")}
        assert guide | {"model_state.pdparams", "model_config.json"} <= set(os.listdir(folder))
        bundle = open_bundle(str(folder))
        assert bundle.labels.names == lines_of(dataset / "label.txt") and bundle.manifest["max_seq_length"] == 32
        sizes.append((folder / "model.onnx").stat().st_size)
        output = tmp_path / f"{folder.name}.txt"
        prefix = folder / "pruned_model"
        flags = ("--device", "cpu", "--dataset_dir", dataset, "--output_file", output)
        assert run(infer.main, "--model_path_prefix", prefix, *flags)[0] == 0 and len(lines_of(output)) == 12
    assert sizes == sorted(set(sizes))
    # Each width is cut from the whole model; PaddleNLP cuts the second from what the first left.
    for folder, width in (("0.75", Fraction(3, 4)), ("0.67", Fraction(2, 3)), ("0.5", Fraction(1, 2))):
        weights = paddle.load(str(tmp_path / "prune" / f"width_mult_{folder}" / "model_state.pdparams"))
        for layer in (f"ernie.encoder.layers.{number}" for number in range(2)):
            for name in ("q", "k", "v"):
                assert weights[f"{layer}.self_attn.{name}_proj.weight"].shape == [48, 48 * width]
            assert weights[f"{layer}.linear1.weight"].shape == [48, 96 * width]
    assert re.findall(r"(whole model|\d/\d) .* [\d.]+ M .* ms +[\d.]+x\n", log) == ["whole model", "3/4", "2/3", "1/2"]
    assert log.count("micro f1 score: ") == 4  # the whole model's and each width's
    # The classifier that is kept is the one in the bundles, and has the higher macro F1.
    line = r"Width (\S+), F1 .*: (\S+), (\S+) with the trained .*; (\S+), (\S+) with a fitted .* The (\w+) one"
    rows = re.findall(r"\d/\d +(\S+) +(\S+) +\S+ M", log)
    for served, (width, *scores, kept) in zip(rows, re.findall(line, log), strict=True):
        trained, fitted = tuple(scores[:2]), tuple(scores[2:])
        assert width in ("0.75", "0.67", "0.5") and served == {"trained": trained, "fitted": fitted}[kept]
        assert float(served[1]) == max(float(trained[1]), float(fitted[1]))
    assert (
        "as fast" in log
        and re.search(r"whole model .* 1\.00x\n", log)
        and "its logits match the pruned model's within" in log
    )


def test_a_width_without_a_score_is_kept(run, wide, tmp_path):
    """A short run may have a macro F1 of 0; PaddleNLP keeps only what is better than 0."""
    dataset, checkpoint = wide
    Decision(threshold=0.999).save(checkpoint / "decision.json")  # so that nothing is predicted
    flags = ("--width_mult_list", "1/12", "--save_steps", 2, "--no-refit_head")
    status, log = prune(run, dataset, checkpoint, tmp_path / "prune", *flags)
    assert status == 0, log
    assert log.count("macro f1 score: 0.00000") == 4  # the whole model, and every second of six steps
    assert "fitted" not in log
    config = json.loads((tmp_path / "prune" / "width_mult_0.08" / "model_config.json").read_text(encoding="utf-8"))
    assert config["width_mult"] == pytest.approx(1 / 12) and config["num_attention_heads"] == 12
    assert open_bundle(str(tmp_path / "prune" / "width_mult_0.08")).decision.threshold == 0.999


def test_the_better_classifier_is_kept(news, tiny_model, caplog):
    """A random one is worse than the fitted one, which is not better than one that predicts the same labels."""
    from text_cls.neural.pruning import PruningOptions, refit_head

    labels = read_labels(news / "label.txt", Problems())
    rows = dict.fromkeys(("train", "dev"), read_rows(news / "train.txt", labels, Problems()))
    model, tokenizer = load_pretrained(str(tiny_model), len(labels))
    tokens = dict.fromkeys(rows, encode(rows["dev"].texts, tokenizer, model, 32))
    checkpoint = Checkpoint(model, tokenizer, labels, Decision(0.05), {})
    options, layer = PruningOptions(width_mult_list=[Fraction(1, 2)]), last_linear(model)

    def refit():
        caplog.clear()
        with caplog.at_level("INFO"):
            refit_head(options, 0.5, checkpoint, rows, tokens)
        return caplog.text, layer.weight.numpy(), layer.bias.numpy()

    log, weight, bias = refit()
    assert "Width 0.5, F1 on dev (micro, macro): " in log and "The fitted one is kept" in log, log
    features = predict_features(model, tokens["train"], 32)
    rates = label_rates(rows["train"].support(len(labels)), len(rows["train"]))
    fitted = fit(features, rows["train"].multi_hot(len(labels)), rates)
    assert weight == pytest.approx(fitted[0], abs=1e-4) and bias == pytest.approx(fitted[1], abs=1e-4)
    layer.bias.set_value(bias + np.float32(1e-4))
    log, *kept = refit()
    assert "The trained one is kept" in log, log
    assert np.array_equal(kept[0], weight) and np.array_equal(kept[1], bias + np.float32(1e-4))


def test_the_student_learns_from_the_teacher():
    """The loss is one for sigmoid heads: it moves a student whose logits are off by a constant; softmax does not."""
    import paddle
    from paddlenlp.trainer import trainer_compress

    from text_cls.neural.compat import patch_dynabert

    patch_dynabert(None)
    teacher = paddle.to_tensor([[2.0, -1.0, 0.5]])
    student = paddle.to_tensor([[5.0, 2.0, 3.5]], stop_gradient=False)  # 3 above, everywhere
    trainer_compress.soft_cross_entropy(student, teacher).backward()
    assert (student.grad > 0.03).all()
    same = paddle.to_tensor(teacher.numpy(), stop_gradient=False)
    trainer_compress.soft_cross_entropy(same, teacher).backward()
    assert float(same.grad.abs().max()) < 1e-6


def test_widths_that_split_a_head_are_refused(run, wide, tmp_path):
    flags = ("--width_mult_list", "0.7", "1/2", "--max_seq_length", 4096)
    status, log = prune(run, *wide, tmp_path / "prune", *flags)
    assert status == 2 and "--max_seq_length 4096: this model takes at most 2048 tokens" in log
    assert "--width_mult_list 7/10: 12 heads times 7/10 is not a whole number; these work: 11/12, 5/6, 3/4, 2/3" in log
    assert not (tmp_path / "prune").exists()


def test_all_problems_are_reported_at_once(run, wide, tmp_path):
    dataset, checkpoint = wide
    (tmp_path / "prune" / "width_mult_0.5").mkdir(parents=True)
    (tmp_path / "prune" / "width_mult_0.5" / "notes.txt").write_text("", encoding="utf-8")
    (dataset / "dev.txt").unlink()
    status, log = prune(run, dataset, checkpoint, tmp_path / "prune", "--width_mult_list", "1/2", "--device", "gpu")
    assert status == 2 and "3 problems" in log
    for message in ("is built without gpu; use --device cpu", "the folder holds notes.txt", "dev.txt: No such file"):
        assert message in log
    status, log = prune(run, dataset, tmp_path / "nowhere", tmp_path / "prune")
    assert status == 2 and "--params_dir" in log and "nowhere does not exist; train first (python train.py ...)" in log


@pytest.mark.parametrize("text", ["1", "0", "5/4", "half", "1/0", "-1/2"])
def test_widths_that_are_not_fractions_below_1(text, capsys):
    with pytest.raises(SystemExit):
        script.parse_args(["--output_dir", "o", "--dataset_dir", "d", f"--width_mult_list={text}"])
    assert "--width_mult_list" in capsys.readouterr().err


def test_two_widths_that_would_share_a_folder():
    problems = list(script.width_problems([Fraction(1, 2), Fraction(1, 2)], 12))
    assert len(problems) == 1 and "the same to two digits" in problems[0]


def test_ernie_m_is_refused(families, run, news, tmp_path):
    from families import save_as_checkpoint

    checkpoint = save_as_checkpoint(families, "ernie_m", tmp_path / "m")
    labels = load_checkpoint(str(checkpoint), None, Problems()).labels
    labels.write(str(news / "label.txt"))
    for name in ("train.txt", "dev.txt"):
        (news / name).write_text("足球\ta\n台风\tb,c\n", encoding="utf-8")
    status, log = prune(run, news, checkpoint, tmp_path / "prune")
    assert status == 2 and "does not support ERNIE-M; export it unpruned (python export_model.py)" in log
