"""Versions of a bundle in one repository: added, loaded and rolled back by Triton's explicit model control."""

import json
import os
import re
import shutil
import threading
import urllib.request

from triton_server import TEXTS, assert_same, triton_server

import build_repository as script
from serving import wait_until
from text_cls.bundle import open_bundle, write_manifest
from text_cls.decision import Decision
from text_cls.serving.predictor import Predictor

EXPLICIT = ("--model-control-mode=explicit", "--load-model=seqcls_model", "--load-model=seqcls")
INNER = ("tokenizer", "seqcls_batcher", "seqcls_model", "seqcls_postprocess")
MADE = ("version", "variants", "files")


def one_label_each(bundle, folder):
    """A bundle that differs in its decision: every text gets exactly one label."""
    shutil.copytree(bundle, folder)
    Decision(min_k=1, max_k=1, threshold=0.9).save(folder / "decision.json")
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    write_manifest(str(folder), {name: value for name, value in manifest.items() if name not in MADE})
    return folder


def control(server, model, action):
    status, _, body = server.get(f"repository/models/{model}/{action}", b"{}")
    assert status == 200, body


def use(repository, version):
    """What the README says to do before `load`."""
    shutil.copyfile(repository / "seqcls" / str(version) / "config.pbtxt", repository / "seqcls" / "config.pbtxt")


def version_in_use(server):
    tensor = {"name": "INPUT", "datatype": "BYTES", "shape": [1, 1], "data": ["足球"]}
    status, _, body = server.get("models/seqcls/infer", json.dumps({"inputs": [tensor]}).encode("utf-8"))
    assert status == 200, body
    return int(json.loads(body)["model_version"])


def ready_models(server):
    body = server.get("repository/index", b"{}")[2]
    return {model["name"] for model in json.loads(body) if model.get("state") == "READY"}


def metrics(server):
    """{(name, labels): value} of the metrics of this project."""
    with urllib.request.urlopen(f"http://{server.metrics_url}/metrics", timeout=60) as answer:
        text = answer.read().decode("utf-8")
    found = re.findall(r"^(text_cls_\w+)\{(.*)\} (\S+)$", text, re.M)
    return {(name, tuple(sorted(re.findall(r'(\w+)="(.*?)"', labels)))): float(value) for name, labels, value in found}


class Load:
    """Clients that ask all the time: each answer is that of one of the predictors, whole. Used as a context."""

    def __init__(self, server, predictors):
        self.server, self.predictors, self.answers = server, predictors, {1: 0, 2: 0}
        self.faults, self.lock, self.end = [], threading.Lock(), threading.Event()
        self.threads = [threading.Thread(target=self.ask) for _ in range(4)]

    def ask(self):
        while not self.end.is_set():
            try:
                outputs = self.server.infer("seqcls", TEXTS)
            except Exception as error:
                self.faults.append(str(error))
                continue
            for version, predictor in self.predictors.items():
                try:
                    assert_same(outputs, predictor, TEXTS)
                except AssertionError:
                    continue
                with self.lock:
                    self.answers[version] += 1
                break
            else:
                self.faults.append("an answer of no version")

    def more(self, version):
        """Waits until clients get further answers of a version."""
        before = self.answers[version]
        wait_until(lambda: self.answers[version] > before + 5 or self.faults)
        assert self.faults == []

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.end.set()
        for thread in self.threads:
            thread.join()


def counts(server, version):
    """{(metric, label or None): value} of one version."""
    return {
        (name, dict(tags).get("label")): value
        for (name, tags), value in metrics(server).items()
        if {("bundle", "seqcls"), ("model_version", str(version))} < set(tags)
    }


def expected(predictor, texts, most):
    """What `counts` returns of these texts."""
    names, found = predictor.labels.names, [names for names, _ in predictor.predict(texts)]
    by_label = {name: sum(name in row for row in found) for name in names}
    labels = {name: by_label[name] for name in names[:most]}
    labels |= {"(other)": sum(by_label[name] for name in names[most:])} if len(names) > most else {}
    return {
        ("text_cls_counted_texts_total", None): len(texts),
        ("text_cls_texts_without_label_total", None): sum(not row for row in found),
        **{("text_cls_label_texts_total", name): count for name, count in labels.items()},
    }


def test_a_version_is_added_loaded_and_rolled_back_under_load(triton, bundles, run, tmp_path):
    """As the README says to do it. Each answer is of one version, none fails, and the counts are kept apart."""
    repository = tmp_path / "models"
    both = {1: bundles["news"], 2: one_label_each(bundles["news"], tmp_path / "second")}
    predictors = {version: Predictor(str(bundle), num_threads=1) for version, bundle in both.items()}
    assert run(script.main, "--bundle", both[1], "--output", repository)[0] == 0
    with triton_server(repository, tmp_path / "log.txt", *EXPLICIT) as server:
        with Load(server, predictors) as load:
            load.more(1)
            flags = ("--model_version", 2, "--metric_labels", 10)
            status, log = run(script.main, "--bundle", both[2], "--output", repository, *flags)
            assert status == 0 and "when the server has loaded first seqcls_model_2, then seqcls" in log
            assert version_in_use(server) == 1
            control(server, "seqcls_model_2", "load")
            for version in (2, 1, 2):
                use(repository, version)
                control(server, "seqcls", "load")
                assert version_in_use(server) == version
                load.more(version)
        for model in INNER:
            control(server, model, "unload")
        wait_until(lambda: ready_models(server) == {"seqcls", *(f"{model}_2" for model in INNER)})
        before = counts(server, 2)
        texts = ["台风登陆，学校停课一天", "", "公司裁员三成", b"\xff"]
        server.infer("seqcls", texts)
        after = counts(server, 2)
        assert {key: after[key] - before[key] for key in after} == expected(predictors[2], texts[:3], 10)
        digest = open_bundle(str(both[2])).digest[:12]
        assert {dict(tags)["version"] for (_, tags) in metrics(server) if ("model_version", "2") in tags} == {digest}
        # The other version is still in the repository: it can be loaded again.
        earlier = counts(server, 1)
        control(server, "seqcls_model", "load")
        use(repository, 1)
        control(server, "seqcls", "load")
        assert_same(server.infer("seqcls", TEXTS), predictors[1], TEXTS)
        wanted = expected(predictors[1], TEXTS, 200)
        assert {key: value - earlier[key] for key, value in counts(server, 1).items()} == wanted
        assert len(wanted) == 2 + len(predictors[1].labels.names) and len(before) == 2 + 10 + 1
    assert load.faults == [] and all(load.answers.values())


def test_without_metrics_all_is_answered(triton, bundles, run, tmp_path):
    assert run(script.main, "--bundle", bundles["reviews"], "--output", tmp_path / "models")[0] == 0
    with triton_server(tmp_path / "models", tmp_path / "log.txt", "--allow-metrics=false") as server:
        assert_same(server.infer("seqcls", TEXTS), Predictor(str(bundles["reviews"]), num_threads=1), TEXTS)


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_version_that_is_there_and_other_folders_are_refused(bundles, run, tmp_path):
    flags = ("--bundle", bundles["reviews"], "--output", tmp_path / "models")
    assert run(script.main, *flags, "--model_version", 2)[0] == 0  # a new repository may begin with any version
    names = {path.name for path in (tmp_path / "models").iterdir()}
    assert names == {"seqcls", *(f"{model}_2" for model in INNER)}
    before = contents(tmp_path / "models")
    status, log = run(script.main, *flags, "--model_version", 2)
    assert status == 2 and "has this version, which a server may be using; name another number" in log
    status, log = run(script.main, *flags)  # without a version: it would replace all of them
    assert status == 2 and "which would be lost; name a new folder" in log
    assert contents(tmp_path / "models") == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    other = ("--bundle", bundles["reviews"], "--output", tmp_path / "other", "--model_version", 2)
    status, log = run(script.main, *other)
    assert status == 2 and "not a repository of this release" in log
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".lock") == ["models", "other"]


def test_a_run_that_ends_early_leaves_the_version_in_use(bundles, run, tmp_path, monkeypatch):
    """Whatever step fails: the configuration in use and its models are as before, and the next run succeeds."""
    flags = ("--bundle", bundles["reviews"], "--output", tmp_path / "models")
    assert run(script.main, *flags)[0] == 0
    before = contents(tmp_path / "models")
    steps, rename = [], os.rename
    for fails in range(5):
        steps.clear()

        def failing(*paths, fails=fails):
            if ".tmp" not in str(paths[0]):  # those of `atomic_folder` are its own
                steps.append(paths)
                if len(steps) > fails:
                    raise OSError(28, "No space left on device")
            return rename(*paths)

        monkeypatch.setattr(script.os, "rename", failing)
        status, log = run(script.main, *flags, "--model_version", 3)
        assert status == 2 and "No space left on device" in log and len(steps) == fails + 1
        after = contents(tmp_path / "models")
        assert {path: after[path] for path in before} == before
        assert not (tmp_path / "models" / "seqcls" / "3").exists()
    monkeypatch.undo()
    assert run(script.main, *flags, "--model_version", 3)[0] == 0
    after = contents(tmp_path / "models")
    changed = {path.relative_to(tmp_path / "models").as_posix() for path in before if after[path] != before[path]}
    assert changed == {"seqcls/config.pbtxt"}
    assert not list(tmp_path.glob("*.version_3*"))
