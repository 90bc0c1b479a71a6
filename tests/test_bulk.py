"""deploy/bulk/bulk.py on a real Ray: the labels of infer.py, on disk and on S3, and after kills; what it refuses."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from types import SimpleNamespace

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT, command_line, lines_of, load_script
from s3_server import KEYS, s3_server

from parts import Part
from text_cls.cli import UserError

BULK, INFER = load_script("deploy/bulk/bulk.py"), load_script("deploy/predictor/infer.py")
needs_ray = pytest.mark.skipif(
    not find_spec("ray") and not os.environ.get("CI"), reason="Ray: pip install -r requirements/bulk.txt"
)
ADDED = {"labels", "scores", "error"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A folder of three Parquet files, 40 row groups of 50 rows."""
    folder = tmp_path_factory.mktemp("corpus")
    texts = [line.partition("\t")[0] for line in lines_of(ROOT / "data" / "train.txt")]
    shuffled = random.Random(5).choices(texts, k=2000)
    for name, rows in {"a": range(0, 700), "中/b": range(700, 1500), "c": range(1500, 2000)}.items():
        path = folder / f"{name}.parquet"
        path.parent.mkdir(exist_ok=True)
        table = {"id": list(rows), "text": [shuffled[i] if i % 97 else " " for i in rows]}
        pq.write_table(pa.table(table), path, row_group_size=50)
    return folder


@pytest.fixture(scope="module")
def expected(corpus, bundles, tmp_path_factory):
    """{id: row} that infer.py writes for the corpus."""
    rows = {}
    for path in corpus.rglob("*.parquet"):
        out = tmp_path_factory.mktemp("infer") / "out.parquet"
        where = ["--model_path_prefix", str(bundles["news"]), "--input_file", str(path), "--output_file", str(out)]
        assert INFER.main([*where, "--device", "cpu", "--num_threads", "1"]) == 0
        rows |= {row["id"]: row for row in pq.read_table(out).to_pylist()}
    return rows


@pytest.fixture(autouse=True)
def ray_folder(monkeypatch):
    """Where Ray keeps its logs and sockets, whose paths may have 107 bytes only."""
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        monkeypatch.setenv("RAY_TMPDIR", folder)
        yield


def words_of(bundle, source, output, *flags):
    script = ROOT / "deploy" / "bulk" / "bulk.py"
    where = ("--bundle", bundle, "--input", source, "--output", output)
    return command_line(script, *where, "--actors", 2, "--device", "cpu", *flags)


def finish(words, **environment):
    """The log of a job that succeeds."""
    answer = subprocess.run(words, capture_output=True, text=True, env=os.environ | environment)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout + answer.stderr


def check_rows(output, expected):
    """Each row is there exactly once, with the labels and scores of infer.py."""
    rows = [row for path in sorted(output.rglob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    assert [row["id"] for row in sorted(rows, key=lambda row: row["id"])] == sorted(expected)
    for row in rows:
        assert row.pop("error") is None and row["labels"] == expected[row["id"]]["labels"]
        assert row["scores"] == pytest.approx(expected[row["id"]]["scores"], abs=2e-5)


def check_summary(summary, expected):
    assert summary["rows"] == len(expected) and summary["errors"] == [] and summary["parts"] == 40
    labels = [name for row in expected.values() for name in row["labels"]]
    assert summary["label_counts"] == {name: labels.count(name) for name in set(labels)}
    blank = sum(not row["text"].strip() for row in expected.values())
    bare = sum(not row["labels"] for row in expected.values())
    assert (summary["blank"], summary["without_labels"]) == (blank, bare - blank)


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
    return found


@needs_ray
def test_a_job_whose_processes_are_killed(corpus, expected, bundles, tmp_path):
    output, log = tmp_path / "out", tmp_path / "log"
    words = words_of(bundles["news"], corpus, output)

    def written():
        return {path: path.stat().st_mtime_ns for path in output.rglob("*.parquet")}

    def actors(driver):
        with contextlib.suppress(psutil.Error):
            # Only an actor at work has this name.
            return [child for child in driver.children(recursive=True) if "Labeller.label" in "".join(child.cmdline())]

    with open(log, "wb") as file:
        process = subprocess.Popen(words, stdout=file, stderr=file)
    driver = psutil.Process(process.pid)
    with contextlib.suppress(psutil.NoSuchProcess):
        wait_for(lambda: actors(driver) or process.poll() is not None)[0].kill()
    children = driver.children(recursive=True)
    wait_for(lambda: len(written()) >= 3 or process.poll() is not None)
    process.kill()
    assert process.wait() == -signal.SIGKILL, log.read_text(encoding="utf-8")
    for child in children:  # Ray's agents would stay for a minute
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    psutil.wait_procs(children)
    before = written()
    assert 3 <= len(before) < 40 and not (output / "_SUCCESS.json").exists()

    told = finish(words)
    assert f"40 parts, {40 - len(before)} of them to label" in told
    assert written().items() >= before.items(), "a part was labelled twice"
    check_rows(output, expected)
    check_summary(json.loads((output / "_SUCCESS.json").read_text(encoding="utf-8")), expected)
    assert not list(output.rglob("*.tmp"))
    assert "Nothing to do" in finish(words)


@needs_ray
def test_on_s3(corpus, expected, bundles, tmp_path, monkeypatch):
    from pyarrow import fs

    with s3_server(tmp_path / "server.log") as address:
        for name, value in {**KEYS, "AWS_EC2_METADATA_DISABLED": "true"}.items():
            monkeypatch.setenv(name, value)
        store = fs.S3FileSystem(endpoint_override=address, allow_bucket_creation=True)
        store.create_dir("corpus")
        fs.copy_files(str(corpus), "corpus/数据 in", destination_filesystem=store)
        words = words_of(bundles["news"], "s3://corpus/数据 in", "s3://corpus/out/labelled")
        told = finish(words, AWS_ENDPOINT_URL=address)
        assert "40 parts, 40 of them to label" in told
        fs.copy_files("corpus/out/labelled", str(tmp_path / "out"), source_filesystem=store)
        check_rows(tmp_path / "out", expected)
        check_summary(json.loads((tmp_path / "out/_SUCCESS.json").read_text(encoding="utf-8")), expected)
        store.delete_file("corpus/out/labelled/a-00003.parquet")
        assert "40 parts, 1 of them to label" in finish(words, AWS_ENDPOINT_URL=address)
        check_failed_upload(store, address, monkeypatch)


def check_failed_upload(store, address, monkeypatch):
    """Nothing appears if the program fails while it writes."""
    import storage

    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    folder = storage.open_folder("s3://corpus/more")
    with pytest.raises(RuntimeError), folder.write("a") as file:
        file.write(b"half")
        raise RuntimeError
    assert folder.files() == {}


@needs_ray
@pytest.mark.parametrize("name", ["news", "linear", "cascade"])
def test_texts(bundles, linear_bundle, cascade_bundle, tmp_path, name):
    bundle = {"linear": linear_bundle, "cascade": cascade_bundle}.get(name, bundles["news"])
    texts = [line.partition("\t")[0] for line in lines_of(ROOT / "data" / "train.txt")][:400]
    path = tmp_path / "texts.txt"
    path.write_bytes("".join(f"{text}\r\n" for text in texts).encode())
    told = finish(words_of(bundle, path, tmp_path / "out", "--part_bytes", 10_000, "--threshold", 0.3))
    assert "400 rows" in told
    where = ["--model_path_prefix", str(bundle), "--input_file", str(path), "--threshold", "0.3"]
    where += ["--device", "cpu", "--num_threads", "1", "--output_file", str(tmp_path / "infer.txt")]
    assert INFER.main(where) == 0
    rows = [row for out in sorted((tmp_path / "out").glob("*.parquet")) for row in pq.read_table(out).to_pylist()]
    assert [f"{row['text']}\t{','.join(row['labels'])}" for row in rows] == lines_of(tmp_path / "infer.txt")


# ---------------------------------------------------------------------------------------------- what needs no Ray


@pytest.fixture
def refused(run, bundles, monkeypatch):
    """refused(source, output, *flags, bundle) -> the message of a job that ends with status 2 before it starts Ray."""
    monkeypatch.setattr(BULK, "connect", lambda args: pytest.fail("it starts Ray"))

    def call(source, output, *flags, bundle="news"):
        where = ("--bundle", bundles[bundle], "--input", source, "--output", output)
        status, log = run(BULK.main, *where, *flags)
        assert status == 2 and "Traceback" not in log, log
        return log

    return call


@pytest.fixture
def half_done(corpus, bundles, tmp_path):
    """The output folder of a job that was killed when one part was written."""
    from labeller import Labeller

    output = tmp_path / "out"
    where = ["--bundle", str(bundles["news"]), "--input", str(corpus), "--output", str(output)]
    job, planned, decision = BULK.open_job(BULK.parse_args(where))
    missing = BULK.take_output(job, planned, BULK.Totals())
    assert missing == planned
    actor = Labeller(job, str(bundles["news"]), decision, num_threads=1)
    actor.open()
    actor.label(planned[0])
    return output


def test_parts_of_another_job_are_refused(refused, half_done, corpus, tmp_path):
    assert "another decision" in refused(corpus, half_done, "--threshold", 0.3)
    assert "another bundle" in refused(corpus, half_done, bundle="reviews")
    assert "--max_seq_length None" in refused(corpus, half_done, "--max_seq_length", 20)
    assert "input files that changed, were added or are missing: c.parquet" in refused(corpus / "a.parquet", half_done)
    before = sorted(half_done.rglob("*"))
    [part] = half_done.glob("*.parquet")
    part.rename(half_done / "strange.parquet")
    assert "strange.parquet is not a part of this job" in refused(corpus, half_done)
    (half_done / "strange.parquet").rename(part.with_name("a-00001.parquet"))
    assert "its input differ" in refused(corpus, half_done)
    part.with_name("a-00001.parquet").rename(part)
    assert sorted(half_done.rglob("*")) == before


def test_parts_that_a_node_wrote_on_its_own_disk_are_missed(half_done, corpus, bundles):
    where = ["--bundle", str(bundles["news"]), "--input", str(corpus), "--output", str(half_done)]
    job, planned, _ = BULK.open_job(BULK.parse_args(where))
    with pytest.raises(UserError, match="39 parts are not there, such as a-00001.parquet; on a cluster"):
        BULK.finish_output(job, planned, BULK.Totals())
    assert not (half_done / "_SUCCESS.json").exists()


def test_folders_that_are_no_output_are_refused(refused, corpus, tmp_path):
    (tmp_path / "thesis.txt").write_text("text", encoding="utf-8")
    assert "has files that are not of a job, such as thesis.txt" in refused(corpus, tmp_path)
    assert "inside the folder of the input" in refused(corpus, corpus / "labelled")


def test_flags_that_do_not_fit_are_refused(refused, tmp_path):
    (tmp_path / "a.jsonl").write_text("{}\n", encoding="utf-8")
    assert "leave --format out" in refused(tmp_path / "a.jsonl", tmp_path / "out", "--format", "parquet")
    assert "holds no int8 model" in refused(tmp_path / "a.jsonl", tmp_path / "out", "--variant", "int8")
    assert "no files" in refused(tmp_path / "b*.jsonl", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_two_jobs_do_not_write_the_same_folder(refused, half_done, corpus):
    from text_cls.locks import write_lock

    code = f"from text_cls.locks import write_lock\nwith write_lock({str(half_done)!r}): print(flush=True); input()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
    process.stdout.readline()
    assert "is writing to" in refused(corpus, half_done)
    process.communicate(b"\n")
    with write_lock(half_done):
        pass


class FakeRay:
    """Ray as `label_all` uses it, without processes. results: {(actor, part): result}, by default the part's name.

    A result may be an exception, or "never". Actors are numbers; an actor's `open` is the part None.
    """

    class Died(Exception):
        pass

    class TaskError(Exception):
        cause = None

    def __init__(self, monkeypatch, results):
        self.results, self.started, self.calls = results, 0, []
        self.exceptions = SimpleNamespace(RayActorError=self.Died, RayTaskError=self.TaskError)
        monkeypatch.setitem(sys.modules, "ray", self)

    def start(self):
        self.started += 1
        actor = self.started
        method = SimpleNamespace(remote=lambda part=None: (actor, part, self.calls.append((actor, part))))
        return SimpleNamespace(open=method, label=method)

    def wait(self, references, num_returns):
        ready = [each for each in references if self.results.get(each[:2]) != "never"]
        assert ready, "it would wait for ever"
        return ready[:1], []

    def get(self, reference):
        result = self.results.get(reference[:2], reference[1] and reference[1].name)
        if isinstance(result, Exception):
            raise result
        return result


PARTS = [Part(name, "a.txt", 4, 0, i, i + 1) for i, name in enumerate("abcd")]


def test_an_actor_that_dies_loses_no_part(monkeypatch):
    ray = FakeRay(monkeypatch, {(1, PARTS[0]): FakeRay.Died(), (2, None): FakeRay.Died()})
    assert sorted(BULK.label_all(PARTS, ray.start, 2)) == ["a", "b", "c", "d"]
    assert ray.started == 4


def test_an_actor_without_room_holds_nothing_up(monkeypatch):
    ray = FakeRay(monkeypatch, {(2, None): "never", (3, None): "never"})
    assert list(BULK.label_all(PARTS, ray.start, 3)) == ["a", "b", "c", "d"]
    assert {actor for actor, part in ray.calls if part} == {1}


@pytest.mark.parametrize(("part", "words"), [(PARTS[1], "labelling b"), (None, "opening the bundle")])
def test_actors_that_die_again_and_again_end_the_job(monkeypatch, part, words):
    ray = FakeRay(monkeypatch, {(actor, part): FakeRay.Died("out of memory") for actor in range(1, 9)})
    with pytest.raises(UserError, match=f"4 processes died while {words}; .*out of memory"):
        list(BULK.label_all(PARTS, ray.start, 1))


def test_the_message_of_an_actor_is_shown(monkeypatch):
    error = FakeRay.TaskError()
    error.cause = UserError("the bundle is damaged")
    ray = FakeRay(monkeypatch, {(1, None): error})
    with pytest.raises(UserError, match="^the bundle is damaged$"):
        list(BULK.label_all(PARTS, ray.start, 1))
