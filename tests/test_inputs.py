"""Inputs that cannot be read twice or that change in between, in every script that reads one more than once."""

import errno
import json
import os
import shutil
import tempfile
import threading
import tracemalloc
from contextlib import ExitStack
from pathlib import Path

import pytest
from conftest import ROOT, lines_of, load_script, write_lines

from text_cls import inputs, rows
from text_cls.cli import UserError
from text_cls.files import sha256
from text_cls.inputs import one_run, open_input
from text_cls.rows import read_lines


@pytest.fixture
def pipe():
    """pipe(content) -> path of a pipe that yields these bytes once, as `<(...)` does."""
    with ExitStack() as stack:

        def call(content):
            reader, writer = os.pipe()

            def write():
                with open(writer, "wb") as file:
                    file.write(content)

            thread = threading.Thread(target=write)
            thread.start()
            stack.callback(thread.join)
            stack.callback(os.close, reader)
            return f"/dev/fd/{reader}"

        yield call


def read(path, **options):
    with open_input(path, **options) as file:
        return file.read()


def test_a_pipe_is_read_as_often_as_a_file(pipe):
    content = os.urandom(1 << 20)  # more than a pipe holds
    with one_run():
        path = pipe(content)
        assert read(path) == content and read(path, again=True) == content
        with open_input(path) as first, open_input(path) as second:
            assert first.read(10) == second.read(10) == content[:10]
        (copy,) = inputs._run.copies.values()
    assert copy.closed


def test_the_copy_is_private_and_has_no_name(pipe, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with one_run():
        read(pipe(b"text\n"))
        (copy,) = inputs._run.copies.values()
        status = os.fstat(copy.fileno())
        assert status.st_mode & 0o777 == 0o600 and status.st_nlink == 0 and list(tmp_path.iterdir()) == []


def test_no_space_for_the_copy(pipe, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copyfileobj", full)
    with one_run(), pytest.raises(UserError, match="No space left on device. Set TMPDIR to a folder with more space"):
        read(pipe(b"text\n"))


def test_several_processes_cannot_share_a_pipe(pipe, monkeypatch):
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "2")
    with one_run(), pytest.raises(UserError, match="several processes cannot share what it yields; save it in a file"):
        read(pipe(b"text\n"))
    monkeypatch.delenv("PADDLE_TRAINERS_NUM")


@pytest.mark.parametrize("change", ["append", "replace"])
def test_a_file_that_changes_between_two_passes(tmp_path, change):
    path = tmp_path / "data.txt"
    write_lines(path, ["a", "b"])
    with one_run():
        assert (
            [line for _, line in read_lines(path)] == ["a", "b"] == [line for _, line in read_lines(path, again=True)]
        )
        if change == "append":
            write_lines(path, ["a", "b", "c"])
        else:
            write_lines(tmp_path / "new", ["a", "c"])
            os.replace(tmp_path / "new", path)
        with pytest.raises(UserError, match=f"{path} changed while it was read; run this again when"):
            list(read_lines(path, again=True))
        assert len(list(read_lines(path))) > 1  # for the first time, as far as the reader cares
    with one_run():
        read(path, again=True)  # another run


def test_a_file_that_grows_while_it_is_read(tmp_path):
    path = tmp_path / "data.txt"
    write_lines(path, map(str, range(100_000)))
    lines = read_lines(path)
    next(lines)
    with open(path, "a", encoding="utf-8") as file:
        file.write("more\n")
    with pytest.raises(UserError, match="changed while it was read"):
        list(lines)


def test_the_hash_of_a_pipe_is_that_of_the_rows_read_from_it(pipe, tmp_path):
    write_lines(tmp_path / "data.txt", ["a", "b"])
    with one_run():
        path = pipe((tmp_path / "data.txt").read_bytes())
        list(read_lines(path))
        assert sha256(path, again=True) == sha256(tmp_path / "data.txt")


def test_memory_does_not_grow_with_the_pipe(pipe):
    content = b"".join(b"row %d\n" % i for i in range(1_000_000))
    with one_run():
        path = pipe(content)
        tracemalloc.start()
        counts = [sum(1 for _ in read_lines(path)) for _ in range(2)]
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert counts == [1_000_000, 1_000_000] and peak < len(content) / 2


# ---------------------------------------------------------------------------------------------------------- the scripts


def predict(stack, use, folder):
    import predict as script

    dataset, model = use("trained")["reviews"]
    flags = ["--dataset_dir", dataset, "--params_path", model, "--device", "cpu"]
    return script.main, "--data_file", dataset / "data.txt", "--output_file", flags


def infer(stack, use, folder):
    import infer as script

    flags = ["--model_path_prefix", use("bundles")["reviews"], "--device", "cpu", "--num_threads", 1]
    return script.main, "--input_file", use("trained")["reviews"][0] / "data.txt", "--output_file", flags


def retrieval_predict(stack, use, folder):
    dataset, model = use("encoders")["reviews"]
    flags = ["--params_path", model, "--device", "cpu"]
    return load_script("retrieval_based/predict.py").main, "--data_file", dataset / "data.txt", "--output_file", flags


def client(stack, use, folder):
    import client as script
    from serving import serving

    server = stack.enter_context(serving(use("bundles")["reviews"], folder / "log"))
    flags = ["--url", f"http://127.0.0.1:{server.port}"]
    return script.main, "--input_file", use("trained")["reviews"][0] / "data.txt", "--output_file", flags


def recall(stack, use, folder):
    dataset, model = use("encoders")["reviews"]
    flags = ["--params_path", model, "--device", "cpu", "--recall_result_dir", folder]
    script = load_script("retrieval_based/recall.py")
    return script.main, "--similar_text_pair_file", dataset / "dev.txt", "--recall_result_file", flags


def aug(stack, use, folder):
    import aug as script

    return script.main, "--train_path", ROOT / "data" / "train.txt", "--aug_path", ["--aug_strategy", "swap"]


def dirty(stack, use, folder):
    import dirty as script

    write_lines(folder / "rows.txt", lines_of(ROOT / "data" / "train.txt")[:150])
    shutil.copy(ROOT / "data" / "label.txt", folder)
    flags = ["--dataset_dir", folder, "--device", "cpu"]
    return script.main, "--train_file", folder / "rows.txt", "--dirty_file", flags


def split(stack, use, folder):
    import split as script

    flags = ["--dataset_dir", folder, "--overwrite", "--splits", 0.5, 0.5]
    return script.main, "--input_file", ROOT / "data" / "dev.txt", "--output_dir", flags


SCRIPTS = [predict, infer, retrieval_predict, client, recall, aug, dirty, split]


@pytest.fixture(params=SCRIPTS, ids=lambda script: script.__name__)
def script(request, run, tmp_path):
    """(call, input, output): call(input) -> (status, log) of a script that reads its input more than once."""
    with ExitStack() as stack:
        main, flag, source, output_flag, flags = request.param(stack, request.getfixturevalue, tmp_path)
        output = tmp_path / "out"

        def call(path):
            return run(main, *flags, flag, path, output_flag, output)

        yield call, source, output / "train.txt" if request.param is split else output


def test_a_pipe_gives_the_output_of_the_file(script, pipe):
    call, source, output = script
    assert call(source)[0] == 0
    wanted = output.read_bytes()
    output.write_text("old\n", encoding="utf-8")
    path = pipe(source.read_bytes())
    status, log = call(path)
    assert status == 0 and output.read_bytes() == wanted and len(wanted) > 100, log


def test_a_fault_in_a_pipe_is_named_by_its_path(script, pipe):
    call, _, output = script
    output.parent.mkdir(exist_ok=True)
    output.write_text("old\n", encoding="utf-8")
    path = pipe("一\n二\t三\t四\n".encode())
    status, log = call(path)
    assert status == 2 and f"{path}:2: 2 tabs" in log
    assert output.read_text(encoding="utf-8") == "old\n"


def test_a_file_that_changes_between_the_passes_leaves_the_old_output(script, tmp_path, monkeypatch):
    call, source, output = script
    output.parent.mkdir(exist_ok=True)
    output.write_text("old\n", encoding="utf-8")
    path = shutil.copy(source, tmp_path / "changes.txt")
    real, passes = rows.open_input, []

    def changing(name, *args):
        passes.append(Path(name) == path)
        if sum(passes) == 2 and passes[-1]:
            write_lines(path, lines_of(path)[1:])
        return real(name, *args)

    monkeypatch.setattr(rows, "open_input", changing)
    status, log = call(path)
    assert status == 2 and f"{path} changed while it was read" in log, log
    assert output.read_text(encoding="utf-8") == "old\n"


@pytest.fixture
def prompt_model(prompted, tmp_path):
    """Copies of a data set and of a prompt model trained on it, and the texts to predict."""
    dataset, out = prompted["reviews"]
    data, model = shutil.copytree(dataset, tmp_path / "data"), shutil.copytree(out, tmp_path / "out")
    content = (data / "data.txt").read_bytes()
    (data / "data.txt").unlink()
    return data, model, content


def test_few_shot_train_predicts_a_pipe(run, prompt_model, pipe):
    from prompts import train

    data, model, content = prompt_model
    wanted = (model / "predictions.txt").read_bytes()
    (model / "predictions.txt").write_text("old\n", encoding="utf-8")
    (data / "data.txt").symlink_to(pipe(content))
    status, log = run(train.main, "--data_dir", data, "--output_dir", model, "--device", "cpu", "--do_predict")
    assert status == 0 and (model / "predictions.txt").read_bytes() == wanted, log


def test_few_shot_infer_predicts_a_pipe(run, prompt_model, pipe):
    from prompts import infer

    data, model, content = prompt_model
    (data / "data.txt").symlink_to(pipe(content))
    status, log = run(infer.main, "--model_path_prefix", model / "export", "--data_dir", data, "--device", "cpu")
    texts = [line for line in content.decode().splitlines() if line.strip()]
    assert (
        status == 0
        and [line.partition("input data: ")[2] for line in log.splitlines() if "input data" in line] == texts
    )


def test_training_from_a_pipe_records_the_hash_of_its_rows(train, reviews, pipe):
    path = pipe((reviews / "train.txt").read_bytes())
    status, log, folder = train(reviews, "--train_file", path)
    assert status == 0, log
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert run["data"][path] == sha256(reviews / "train.txt")
