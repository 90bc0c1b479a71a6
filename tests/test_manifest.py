"""manifest.json edited by hand or damaged: a bundle opens and answers, or a message names the file and each fault."""

import json
import os
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from strategies import edited_json

from text_cls.bundle import bundle_kind, files_of_bundle, open_bundle, replace_decision
from text_cls.cli import UserError
from text_cls.decision import Decision
from text_cls.files import sha256
from text_cls.serving import open_predictor
from text_cls.serving.predictor import Predictor


def edit(folder, seal=False, **changes):
    """Changes fields of a manifest; None removes one. seal: with the sums of the files that are there."""
    path = folder / "manifest.json"
    manifest = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    if seal:
        manifest["files"] = {file.name: sha256(file) for file in folder.iterdir() if file != path}
    path.write_text(json.dumps({k: v for k, v in manifest.items() if v != "REMOVED"}), encoding="utf-8")


def refused(folder):
    with pytest.raises(UserError) as error:
        open_predictor(str(folder), num_threads=1)
    assert str(folder) in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_seq_length": "48"}, "max_seq_length must be a whole number of at least 1, not '48'"),
        ({"max_seq_length": None}, "max_seq_length must be a whole number of at least 1, not null"),
        ({"max_seq_length": 48.5}, "max_seq_length must be a whole number of at least 1, not 48.5"),
        ({"max_seq_length": True}, "max_seq_length must be a whole number of at least 1, not true"),
        ({"max_seq_length": 2}, "max_seq_length 2: 2 of them are special tokens"),
        ({"longest_input": "x"}, "longest_input must be a whole number of at least 1, not 'x'"),
        ({"longest_input": 5}, "max_seq_length 48 is above longest_input 5"),
        ({"variants": None}, "variants must be a list, not null"),
        ({"variants": ["float64"]}, "variants[0] must be one of float32, fp16, int8, not 'float64'"),
        ({"variants": []}, "holds no float32 model; export it again (python export_model.py)"),
        ({"variants": ["float32", "int8"]}, "files has no int8_model.onnx"),
        ({"vocab_size": "many"}, "vocab_size must be a whole number of at least 1, not 'many'"),
        ({"files": {}}, "files has no decision.json"),
        ({"files": {"../x": "0"}}, "a key of files must be the name of a file in this folder, not '../x'"),
        ({"files": {"\ud800": "0" * 64, "a\0b": "0" * 64}}, "must be the name of a file in this folder, not 'a\\x00b'"),
        ({"model_type": "ernie_m"}, "files has no sentencepiece.bpe.model"),
        ({"outputs": [{"name": "logits", "dtype": "float32", "shape": [-1, 54]}]}, "one tensor of shape [-1, 55]"),
        (
            {"inputs": [{"name": "ids", "dtype": "int64", "shape": [-1, -1]}]},
            "inputs are input_ids, token_type_ids",
        ),
        ({"kind": "other"}, "kind must be one of classification, retrieval, not 'other'"),
        ({"version": 2}, "version 2 is unknown (this code reads version 1); upgrade this code, or export it again"),
        ({"model": "REMOVED"}, "model is missing"),
        ({"model": "\ud800"}, "model must be a text of printable characters, not '\\ud800'"),  # the server shows it
    ],
)
def test_a_fault_is_named_with_the_remedy(bundle, changes, message):
    edit(bundle, **changes)
    assert message in refused(bundle)


def test_all_faults_of_a_manifest_are_named_together(bundle):
    edit(bundle, num_labels="55", variants={}, files=[], pad_token_id=-1)
    lines = refused(bundle).splitlines()
    assert lines[0] == "4 problems, nothing was done:" and all("manifest.json" in line for line in lines[1:])


@pytest.mark.parametrize("name", ["model.onnx", "label.txt"])
def test_a_link_to_itself_is_one_message(bundle, name):
    (bundle / name).unlink()
    (bundle / name).symlink_to(bundle / name)
    assert f"{name} is missing; export it again" in refused(bundle)


def test_a_sealed_file_that_is_no_graph_is_one_message(bundle):
    (bundle / "model.onnx").write_bytes(b"junk" * 100)
    edit(bundle, seal=True)
    assert "model.onnx does not load in ONNX Runtime; export it again" in refused(bundle)


def test_a_length_that_the_graph_does_not_take_is_one_message(bundle):
    edit(bundle, longest_input=None, max_seq_length=4000)
    one = open_predictor(str(bundle), num_threads=1)
    with pytest.raises(UserError, match="the graph fails on rows of 4000 tokens; check longest_input of manifest.json"):
        one.probabilities(["好" * 5000])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer_config.json", "[" * 100_000, "tokenizer_config.json is damaged (nested"),
        ("tokenizer_config.json", '{"tokenizer_class": ["ErnieTokenizer"]}', "tokenizer_class must be a text"),
        ("template.json", '{"before": [1], "after": "x"}', "after must be a list, not 'x'"),
        ("vocab.txt", "a\nb\n", "vocab.txt has no [CLS]"),
        ("decision.json", '{"version": 2, "min_k": 56}', "min_k 56 for 55 labels; export it again"),
    ],
)
def test_a_sealed_file_with_other_content_is_named(bundle, name, content, message):
    (bundle / name).write_text(content, encoding="utf-8")
    edit(bundle, seal=True)
    assert message in refused(bundle)


def test_a_file_that_a_loader_would_read_belongs_to_the_bundle_or_is_refused(bundle):
    (bundle / "template.json").write_text('{"before": [1], "after": [2], "truncate_mode": "tail"}', encoding="utf-8")
    assert "template.json is not a file of this bundle; delete it, or export it again" in refused(bundle)


def test_the_kind_is_known_after_a_cut_off_replacement_and_of_a_folder_without_a_manifest(retrieval, tmp_path):
    folder = tmp_path / "bundle"
    shutil.copytree(retrieval["reviews", "labels"], tmp_path / "bundle.old")  # killed between two renames
    assert bundle_kind(str(folder)) == "retrieval"
    (folder / "manifest.json").unlink()
    assert bundle_kind(str(folder)) == "classification"  # `open_bundle` reports what is missing


def test_the_files_that_an_export_may_replace_are_those_of_the_manifest(bundle, tmp_path):
    files = {path.name for path in bundle.iterdir()}
    (bundle / "notes.txt").write_text("mine", encoding="utf-8")
    assert files_of_bundle(str(bundle)) == files and files_of_bundle(str(tmp_path)) == set()


def test_how_to_make_a_missing_variant(bundle, retrieval):
    with pytest.raises(UserError, match="only float32; make it: python export_model.py --int8 --dataset_dir data"):
        open_bundle(str(bundle)).onnx_file("int8")
    with pytest.raises(UserError, match=r"only float32; export it again \(python retrieval_based/export_model.py\)"):
        open_bundle(str(retrieval["reviews", "labels"])).onnx_file("int8")


def test_a_decision_is_replaced_on_a_file_system_without_hard_links(bundle, monkeypatch):
    def link(source, target):
        raise OSError("not supported")

    monkeypatch.setattr(os, "link", link)
    replace_decision(open_bundle(str(bundle)), Decision(0.25))
    assert open_bundle(str(bundle)).decision == Decision(0.25)  # which checks every file's sum


def test_exchanged_labels_of_thresholds_are_refused(bundle):
    """Sealed again, so that only the names in decision.json can tell."""
    opened = open_bundle(str(bundle))
    replace_decision(opened, Decision(tuple(0.3 + 0.001 * i for i in range(len(opened.labels)))))
    names = (bundle / "label.txt").read_text(encoding="utf-8").splitlines()
    assert json.loads((bundle / "decision.json").read_text(encoding="utf-8"))["labels"] == names
    (bundle / "label.txt").write_text("\n".join([names[1], names[0], *names[2:], ""]), encoding="utf-8")
    edit(bundle, seal=True)
    assert f"for other labels: its label 1 is {names[0]!r}, that of label.txt {names[1]!r}" in refused(bundle)


@given(edited_json({"index": {"kind": "milvus", "uri": "http://a", "collection": "c"}, "version": 1}))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_any_index_is_a_message_or_opens(retrieval, tmp_path, content):
    folder = tmp_path / "bundle"
    if not folder.exists():
        shutil.copytree(retrieval["reviews", "labels"], folder)
    manifest = json.loads((retrieval["reviews", "labels"] / "manifest.json").read_text(encoding="utf-8"))
    edited = {**manifest, **content} if isinstance(content, dict) else content
    (folder / "manifest.json").write_text(json.dumps(edited), encoding="utf-8")
    try:
        open_bundle(str(folder))
    except UserError as error:
        assert str(folder) in str(error)


MANIFEST = {  # as export_model.py writes it
    "version": 1,
    "model": "ErnieForSequenceClassification",
    "model_type": "ernie",
    "static_graph": "float32",
    "inputs": [{"name": "input_ids", "dtype": "int64", "shape": [-1, -1]}],
    "outputs": [{"name": "logits", "dtype": "float32", "shape": [-1, 55]}],
    "num_labels": 55,
    "hierarchical": True,
    "max_seq_length": 48,
    "longest_input": 2048,
    "vocab_size": 100,
    "pad_token_id": 0,
    "versions": {"onnx": "1.23.2"},
    "variants": ["float32"],
    "files": dict.fromkeys(
        ["model.onnx", "label.txt", "decision.json", "tokenizer_config.json", "vocab.txt"], "0" * 64
    ),
}


@given(edited_json(MANIFEST))
def test_any_value_in_any_place_of_a_manifest_is_a_message(bundles, tmp_path_factory, content):
    """Or the bundle opens and answers, if the field does not matter to it."""
    folder = tmp_path_factory.getbasetemp() / "edited"
    if not folder.exists():
        shutil.copytree(bundles["news"], folder)
    real = json.loads((bundles["news"] / "manifest.json").read_text(encoding="utf-8"))
    if isinstance(content, dict):
        for name in ("inputs", "files", "vocab_size"):  # where nothing was edited, as the bundle's
            if content.get(name) == MANIFEST[name]:
                content[name] = real[name]
    (folder / "manifest.json").write_text(json.dumps(content), encoding="utf-8")
    try:
        assert Predictor(str(folder), num_threads=1).probabilities(["足球"]).shape == (1, 55)
    except UserError as error:
        assert str(folder) in str(error)
