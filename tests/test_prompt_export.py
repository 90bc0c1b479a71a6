"""few-shot/prompt_export.py: the bundle gives the logits of the prompt model."""

import json

import numpy as np
import onnx
import pytest
from prompts import HARD, LABELS, PROMPTS, WORDS, make_task

import prompt_export
from text_cls.cli import UserError
from text_cls.decision import Decision
from text_cls.serving.predictor import Predictor


@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_classifier_gives_the_logits_of_the_prompt_model(masked, prompt):
    import paddle

    task = make_task(masked, PROMPTS[prompt], LABELS, WORDS)
    encoded = task.encode(HARD, 48)
    inputs = {name: paddle.to_tensor(value) for name, value in encoded.batch(np.arange(len(HARD))).items()}
    ids = inputs["input_ids"]
    with paddle.no_grad():
        found = prompt_export.make_classifier(task)(ids, paddle.zeros_like(ids), (ids != 0).astype("int64")).numpy()
    assert np.abs(found - task.logits(encoded, 4)).max() < 1e-4 and found.std() > 0.01


@pytest.mark.parametrize(("prompt", "flags"), [("lstm", {}), ("mlp and types", {"truncate_mode": "head"})])
def test_the_bundle_gives_the_logits_of_the_prompt_model(masked, tmp_path, prompt, flags):
    task = make_task(masked, PROMPTS[prompt], LABELS, WORDS, **flags)
    folder = tmp_path / "export"
    assert prompt_export.export(str(folder), task, Decision(), 48, "onnx", {}) < 1e-4
    predictor = Predictor(str(folder))
    assert np.abs(predictor.run(predictor.encode(HARD)) - task.logits(task.encode(HARD, 48), 4)).max() < 1e-4
    assert not list(folder.glob("*.pdmodel")) and predictor.bundle.manifest["static_graph"] is None


def test_a_line_separator_in_a_prompt_does_not_end_a_line(tmp_path):
    from prompting import Prompt

    parts = [{"text": "text"}, {"hard": "一\u2028二"}, {"mask": None}]
    prompt_export.write_prompt_files(tmp_path, Prompt(parts, LABELS, WORDS))
    first, second = (tmp_path / "template_config.json").read_text(encoding="utf-8").splitlines()
    assert json.loads(first) == parts and json.loads(second) == {"class": "ManualTemplate"}


def test_the_last_layer_is_computed_only_for_the_mask(prompted):
    model = onnx.load(prompted["news"][1] / "export" / "model.onnx")
    attention = [node for node in model.graph.node if node.op_type == "MultiHeadAttention"]
    producers = {name: node for node in model.graph.node for name in node.output}
    queries, keys = (producers[attention[-1].input[i]].input[0] for i in (0, 1))
    assert queries == "picked_token_state" and producers[queries].input[1] == keys
    assert [node.name for node in model.graph.node].count("picked_token_state") == 1


def test_a_bundle_with_other_logits_is_refused(masked, tmp_path, monkeypatch):
    task = make_task(masked, "是", LABELS, WORDS)
    real = prompt_export.make_classifier

    def wrong(task):
        classifier = real(task)
        classifier.head.decoder.bias.set_value(classifier.head.decoder.bias + 1e-3)
        return classifier

    monkeypatch.setattr(prompt_export, "make_classifier", wrong)
    with pytest.raises(UserError, match="logits differ from the trained one's by 1.0e-03"):
        prompt_export.export(str(tmp_path / "export"), task, Decision(), 48, "paddle", {})
    assert not (tmp_path / "export").exists()
