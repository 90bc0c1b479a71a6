"""The real doccano and Label Studio: predictions imported, corrected, exported, converted, and trained on.

`make test-tools` runs these tests; `make test` does not, as the tools take minutes to start.
"""

import contextlib
import json
import subprocess
import sys

import pytest
from conftest import ROOT, copy_dataset, lines_of, write_lines
from labelling_servers import answers, doccano_server, label_studio_server, started, wait_for
from triton_server import free_ports

import doccano

pytestmark = pytest.mark.tools
TASKS = {"news": "hierarchical", "reviews": "multi_label"}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """{"news" and "reviews": (data set, checkpoint of a linear model, its bundle)}."""
    import export_model
    import train

    made = {}
    for name, source in (("news", ROOT / "data"), ("reviews", ROOT / "data" / "multi_label")):
        folder = tmp_path_factory.mktemp(name)
        dataset = copy_dataset(source, folder / "data", 300, 60, 12)
        argv = ["--dataset_dir", dataset, "--model_name", "linear", "--device", "cpu", "--save_dir", folder / "model"]
        assert train.main([*map(str, argv)]) == 0
        argv = ["--params_path", folder / "model", "--output_path", folder / "export"]
        assert export_model.main([*map(str, argv)]) == 0
        made[name] = dataset, folder / "model", folder / "export"
    return made


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    with label_studio_server(tmp_path_factory.mktemp("studio")) as server:
        yield server


@pytest.fixture(scope="module")
def annotation_tool(tmp_path_factory):
    with doccano_server(tmp_path_factory.mktemp("tool")) as server:
        yield server


def predicted(run, models, name, tool, output):
    """Writes the predictions of a table with ids for a tool. Returns {text: closed labels}."""
    import predict

    dataset, checkpoint, _ = models[name]
    texts = lines_of(dataset / "data.txt")
    write_lines(dataset / "new.csv", ["id,text", *(f'N{i},"{text}"' for i, text in enumerate(texts))])
    argv = ["--dataset_dir", dataset, "--params_path", checkpoint, "--device", "cpu", "--data_file", "new.csv"]
    argv += ["--min_k", 1]
    status, said = run(
        predict.main, *argv, "--for", tool, "--order", "uncertain", "--count", 10, "--output_file", output
    )
    assert status == 0, said
    plain = output.parent / "plain.txt"
    assert run(predict.main, *argv, "--output_file", plain)[0] == 0
    return {text: {*names.split(",")} for text, names in (line.split("\t") for line in lines_of(plain))}


def converted(run, models, name, export, folder):
    """The rows that doccano.py makes of an export, as {text: labels}; a model is trained on them as well."""
    import train

    dataset, *_ = models[name]
    data = folder / "data"
    data.mkdir()
    (data / "label.txt").write_bytes((dataset / "label.txt").read_bytes())
    argv = ["--doccano_file", export, "--task_type", TASKS[name], "--save_dir", data, "--valid"]
    status, said = run(doccano.main, *argv)
    assert status == 0, said
    (data / "train.txt").write_bytes((dataset / "train.txt").read_bytes() + (data / "valid.txt").read_bytes())
    (data / "dev.txt").write_bytes((dataset / "dev.txt").read_bytes())
    argv = ["--dataset_dir", data, "--model_name", "linear", "--device", "cpu", "--save_dir", folder / "model"]
    assert run(train.main, *argv)[0] == 0
    rows = [line.split("\t") for line in lines_of(data / "valid.txt")]
    return {text: {*filter(None, names.split(","))} for text, names in rows}


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("kind", ["JSON", "JSON_MIN"])
def test_label_studio(run, models, studio, tmp_path, name, kind):
    output = tmp_path / "next.json"
    before = predicted(run, models, name, "label_studio", output)
    project = studio.new_project(name, (tmp_path / "next_interface.xml").read_text(encoding="utf-8"))
    studio.import_tasks(project, output)
    tasks = studio.tasks(project)
    assert len(tasks) == 10 and {task["meta"]["row"]["id"] for task in tasks} <= {f"N{i}" for i in range(12)}
    scores = [task["predictions"][0]["score"] for task in tasks]
    assert all(0 < score <= 1 for score in scores)
    # The annotator corrects the first text to the labels of the last one, and accepts all others.
    first, last = tasks[0]["data"]["text"], tasks[-1]
    correct = last["predictions"][0]["result"]
    studio.annotate(project, lambda text, result: correct if text == first else result)
    (tmp_path / "export.json").write_bytes(studio.export(project, kind))
    found = converted(run, models, name, tmp_path / "export.json", tmp_path)
    assert len(found) == 10 and found.pop(first) == before[last["data"]["text"]]
    assert all(labels == before[text] for text, labels in found.items())


@pytest.mark.parametrize("name", TASKS)
def test_suggestions_in_label_studio(run, models, studio, tmp_path, name):
    """The server as an ML backend, connected as a user does it."""
    dataset, _, bundle = models[name]
    assert predicted(run, models, name, "label_studio", tmp_path / "next.json")
    project = studio.new_project(name, (tmp_path / "next_interface.xml").read_text(encoding="utf-8"))
    write_lines(tmp_path / "texts.txt", lines_of(dataset / "data.txt"))
    studio.import_tasks(project, tmp_path / "texts.txt")
    assert not any(task["predictions"] for task in studio.tasks(project))
    with serving(bundle, tmp_path / "log.txt") as url:
        backend = studio.connect(project, f"{url}/label_studio")
        assert backend["readable_state"] == "Connected", backend
        studio.ask_for_predictions(project)
        wait_for(lambda: all(task["predictions"] for task in studio.tasks(project)), 60, "no predictions")
    tasks = studio.tasks(project)
    infer = subprocess.run(
        [sys.executable, "deploy/predictor/infer.py", "--device", "cpu", "--model_path_prefix", bundle]
        + ["--input_file", tmp_path / "texts.txt", "--for", "label_studio", "--output_file", tmp_path / "all.json"],
        cwd=ROOT,
    )
    assert infer.returncode == 0
    wanted = {
        task["data"]["text"]: task["predictions"][0] for task in json.loads((tmp_path / "all.json").read_text("utf-8"))
    }
    assert len(tasks) == 12
    for task in tasks:
        (prediction,) = task["predictions"]
        same = wanted[task["data"]["text"]]
        assert prediction["result"] == same["result"] and prediction["model_version"] == same["model_version"]
        assert prediction["score"] == pytest.approx(same["score"], abs=1e-4)


@contextlib.contextmanager
def serving(bundle, log):
    """The address of the server with a bundle."""
    (port,) = free_ports(1)
    words = [sys.executable, ROOT / "deploy" / "simple_serving" / "server.py", "--bundle", bundle, "--port", port]
    with started([*words, "--label_studio"], log, None):
        url = f"http://127.0.0.1:{port}"
        wait_for(answers(f"{url}/health/ready"), 120, f"the server does not start, see {log}")
        yield url


@pytest.mark.parametrize("name", TASKS)
def test_doccano(run, models, annotation_tool, tmp_path, name):
    output = tmp_path / "next.jsonl"
    before = predicted(run, models, name, "doccano", output)
    project = annotation_tool.new_project(name, tmp_path / "next_labels.json")
    annotation_tool.import_rows(project, output)
    seen = {}

    def correct(text, labels):
        seen[text] = labels
        return labels if len(seen) > 1 else {*before[text]}  # of the first one also the parents, which changes nothing

    annotation_tool.annotate(project, correct)
    assert len(seen) == 10
    export = tmp_path / "export.jsonl"
    export.write_bytes(annotation_tool.export(project))
    assert all('"N' in line for line in lines_of(export))  # the ids of the user's rows
    assert converted(run, models, name, export, tmp_path) == {text: before[text] for text in seen}
