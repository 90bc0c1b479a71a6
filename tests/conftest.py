"""Small models and data sets, and a way to run a script as a user does and read its output."""

import functools
import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path

import hypothesis
import pytest

# A time limit per example would measure what else the machine does, not the code.
hypothesis.settings.register_profile("suite", deadline=None)
hypothesis.settings.load_profile("suite")

ROOT = Path(__file__).resolve().parent.parent
# Tests share the cores; a tiny model gains nothing from threads. Read by Paddle when it is first imported.
os.environ["OMP_NUM_THREADS"] = "1"
# Messages are compared with the English ones, whatever the locale of the machine.
os.environ["TEXT_CLS_LANG"] = "en"

import http.server
import platform
import re
import threading

from text_cls.neural.compat import import_paddle

import_paddle()
# Scripts set it themselves, including those that tests start.
del os.environ["FLAGS_enable_pir_api"]

REAL_DATA = Path(os.environ.get("TEXT_CLASSIFICATION_DATA", ROOT.parent / "shared" / "data"))


def lines_of(path):
    return Path(path).read_text(encoding="utf-8").splitlines()


def write_lines(path, lines):
    Path(path).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


@pytest.fixture(autouse=True)
def environment():
    """No test may leave an environment variable behind: the processes that later tests start would inherit it."""

    def variables():
        # PaddleNLP's trainer leaves the second; scikit-learn the others, when it is first imported.
        others = ("PYTEST_CURRENT_TEST", "TRAINER_GLOBAL_STEP", "KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK")
        return {name: value for name, value in os.environ.items() if name not in others}

    before = variables()
    yield
    assert variables() == before


@pytest.fixture
def run(capfd):
    """run(main, *argv) -> (exit status, everything printed)."""

    def call(main, *argv):
        capfd.readouterr()
        try:
            status = main([str(word) for word in argv])
        except SystemExit as error:  # argparse
            status = error.code
        captured = capfd.readouterr()
        return status, captured.out + captured.err

    return call


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """Folder of an ERNIE small enough to train in a second. Dropout is on."""
    import make_tiny_model

    folder = tmp_path_factory.mktemp("model") / "tiny"
    flags = "--hidden_size 32 --num_attention_heads 2 --intermediate_size 64 --dropout 0.1".split()
    assert make_tiny_model.main(["--output_dir", str(folder), *flags]) == 0
    return folder


def copy_dataset(source, target, train_rows, dev_rows, texts):
    target.mkdir()
    write_lines(target / "train.txt", lines_of(source / "train.txt")[:train_rows])
    write_lines(target / "dev.txt", lines_of(source / "dev.txt")[:dev_rows])
    write_lines(target / "data.txt", lines_of(source / "data.txt")[:texts])
    shutil.copy(source / "label.txt", target)
    return target


@pytest.fixture
def news(tmp_path):
    """A hierarchical data set: 90 rows to train, 30 to evaluate, 12 to predict."""
    return copy_dataset(ROOT / "data", tmp_path / "news", 90, 30, 12)


@pytest.fixture
def reviews(tmp_path):
    """A flat one of the same size."""
    return copy_dataset(ROOT / "data" / "multi_label", tmp_path / "reviews", 90, 30, 12)


@pytest.fixture
def train(run, tiny_model, tmp_path):
    """train(dataset, *flags) -> (exit status, log, folder of the checkpoint); quick settings, the flags win."""
    import train as script

    def call(dataset, *flags, save_dir=None):
        save_dir = save_dir or tmp_path / "checkpoint"
        quick = "--device cpu --max_seq_length 32 --epochs 1 --learning_rate 1e-3 --logging_steps 1".split()
        quick += ["--head_start", "random"]
        status, log = run(
            script.main, "--dataset_dir", dataset, "--model_name", tiny_model, "--save_dir", save_dir, *quick, *flags
        )
        return status, log, save_dir

    return call


@pytest.fixture(scope="session")
def learner(tmp_path_factory):
    """Folder of an ERNIE that learns something in seconds."""
    import make_tiny_model

    folder = tmp_path_factory.mktemp("model") / "learner"
    flags = "--hidden_size 64 --num_attention_heads 2 --intermediate_size 128 --dropout 0".split()
    assert make_tiny_model.main(["--output_dir", str(folder), *flags]) == 0
    return folder


@pytest.fixture(scope="session")
def trained(learner, tmp_path_factory):
    """{"news" and "reviews": (data set, checkpoint)} of a model that has learnt a little."""
    import train as script

    result = {}
    for name, source in (("news", ROOT / "data"), ("reviews", ROOT / "data" / "multi_label")):
        folder = tmp_path_factory.mktemp(name)
        dataset = copy_dataset(source, folder / "data", 600, 60, 40)
        # Gently, so that rounding, which differs between processors, does not lead to another model.
        flags = "--device cpu --max_seq_length 48 --epochs 12 --learning_rate 2e-3 --batch_size 8".split()
        flags += ["--head_start", "random"]
        where = ["--dataset_dir", str(dataset), "--model_name", str(learner), "--save_dir", str(folder / "model")]
        assert script.main([*where, *flags]) == 0
        result[name] = dataset, folder / "model"
    before = _files(result)
    yield result
    assert _files(result) == before, "a test wrote into what all tests share"


def _files(trained):
    paths = [path for folders in trained.values() for folder in folders for path in folder.rglob("*")]
    return sorted((str(path), path.stat().st_mtime_ns) for path in paths if path.is_file())


def load_script(path):
    """The module of a script, by its path from the root: other folders have a train.py, too."""
    name = path.removesuffix(".py").replace("/", "_").replace("-", "_")
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, ROOT / path)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        before = list(sys.path)
        spec.loader.exec_module(sys.modules[name])
        sys.path[:] = before  # the script's own folder would hide other scripts of the same name
    return sys.modules[name]


def command_line(*words):
    """The words after `python` as a list for subprocess."""
    return [sys.executable, *(str(word) for word in words)]


@pytest.fixture(scope="session")
def family_folders(tiny_model, tmp_path_factory):
    """{family: folder of a small model with random weights}."""
    import paddle
    from families import FAMILIES

    vocab, folders = lines_of(tiny_model / "vocab.txt"), {}
    for name, save in FAMILIES.items():
        folders[name] = tmp_path_factory.mktemp(name)
        shutil.copy(tiny_model / "vocab.txt", folders[name])
        paddle.seed(1)
        save(folders[name], vocab)
    return folders


@pytest.fixture(scope="session")
def families(family_folders):
    """{family: (model, tokenizer)}, loaded as a user's local folder is."""
    from text_cls.neural.model import load_pretrained

    return {name: load_pretrained(str(folder), 5) for name, folder in family_folders.items()}


@pytest.fixture(scope="session")
def bundles(trained, tmp_path_factory):
    """{"news" and "reviews": bundle of the trained model}."""
    import export_model

    folders = {}
    for name, (_, checkpoint) in trained.items():
        folders[name] = tmp_path_factory.mktemp("bundles") / name
        assert export_model.main(["--params_path", str(checkpoint), "--output_path", str(folders[name])]) == 0
    return folders


@pytest.fixture(scope="session")
def linear_checkpoint(trained, tmp_path_factory):
    """Checkpoint of a linear model of the hierarchical data set."""
    import train as script

    folder = tmp_path_factory.mktemp("linear") / "model"
    where = ["--dataset_dir", str(trained["news"][0]), "--model_name", "linear", "--save_dir", str(folder)]
    assert script.main(where) == 0
    return folder


@pytest.fixture(scope="session")
def linear_bundle(linear_checkpoint):
    """Its bundle."""
    import export_model

    folder = linear_checkpoint.parent / "export"
    assert export_model.main(["--params_path", str(linear_checkpoint), "--output_path", str(folder)]) == 0
    return folder


@pytest.fixture(scope="session")
def cascade_bundle(trained, linear_checkpoint, tmp_path_factory):
    """Bundle of the hierarchical model in which the linear one answers half of the dev rows, whatever F1 they have."""
    import numpy as np

    import export_model
    from text_cls import cascade

    def half(sure, *_):
        return cascade.Cascade(float(np.median(sure)), 0.5, 0.125, -0.5)

    folder = tmp_path_factory.mktemp("cascade") / "export"
    flags = [
        "--params_path",
        str(trained["news"][1]),
        "--cascade",
        str(linear_checkpoint),
        "--output_path",
        str(folder),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cascade, "fit", half)
        assert export_model.main([*flags, "--dataset_dir", str(trained["news"][0])]) == 0
    return folder


@pytest.fixture(scope="session")
def windows_bundle(trained, tmp_path_factory):
    """Bundle of the hierarchical model, as if it had been trained with --long_texts windows --max_windows 6."""
    import export_model

    folder = tmp_path_factory.mktemp("windows")
    checkpoint = shutil.copytree(trained["news"][1], folder / "checkpoint")
    run = json.loads((checkpoint / "run.json").read_text(encoding="utf-8"))
    run["arguments"] |= {"long_texts": "windows", "max_windows": 6}
    (checkpoint / "run.json").write_text(json.dumps(run), encoding="utf-8")
    flags = ["--params_path", str(checkpoint), "--output_path", str(folder / "export")]
    assert export_model.main(flags) == 0
    return folder / "export"


@pytest.fixture
def bundle(bundles, tmp_path):
    """A copy of the hierarchical bundle, to damage."""
    return shutil.copytree(bundles["news"], tmp_path / "bundle")


@pytest.fixture(scope="session")
def ernie_m(families, tmp_path_factory):
    """Bundle of a small ERNIE-M with random weights, which has a single input."""
    from families import save_as_checkpoint

    import export_model

    folder = tmp_path_factory.mktemp("ernie_m")
    checkpoint = save_as_checkpoint(families, "ernie_m", folder / "checkpoint")
    flags = ["--params_path", str(checkpoint), "--output_path", str(folder / "export"), "--multilingual"]
    assert export_model.main(flags) == 0
    return folder / "export"


@pytest.fixture
def serve(bundles):
    """serve("news" or "reviews" or bundle or None, *flags, key=None) -> TestClient of a started application."""
    from starlette.testclient import TestClient

    import settings
    from application import create_app

    clients = []

    def call(bundle="news", *flags, key=None):
        first = [] if bundle is None else ["--bundle", str(bundles.get(bundle, bundle))]
        words = [*first, "--num_threads", "1", *map(str, flags)]
        chosen = settings.parse_args(words, environ={settings.API_KEY: key} if key else {})
        clients.append(TestClient(create_app(chosen), raise_server_exceptions=False))
        return clients[-1].__enter__()

    yield call
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture(scope="session")
def encoders(learner, tmp_path_factory):
    """{"news" and "reviews": (data set, checkpoint)} of an encoder for retrieval that has learnt a little."""
    script, result = load_script("retrieval_based/train.py"), {}
    for name, source in (("news", ROOT / "data"), ("reviews", ROOT / "data" / "multi_label")):
        folder = tmp_path_factory.mktemp(f"encoder_{name}")
        dataset = copy_dataset(source, folder / "data", 600, 60, 40)
        files = {"train_set_file": "train.txt", "corpus_file": "label.txt", "similar_text_pair_file": "dev.txt"}
        where = [word for flag, file in files.items() for word in (f"--{flag}", str(dataset / file))]
        where += ["--model_name_or_path", str(learner), "--save_dir", str(folder / "model")]
        flags = "--device cpu --max_seq_length 48 --epochs 4 --learning_rate 2e-3 --batch_size 16 --output_emb_size 0"
        assert script.main([*where, *flags.split()]) == 0
        result[name] = dataset, folder / "model"
    before = _files(result)
    yield result
    assert _files(result) == before, "a test wrote into what all tests share"


@pytest.fixture(scope="session")
def encoder_bundles(encoders, tmp_path_factory):
    """{"news" and "reviews": bundle of that encoder, its index made of the labels}."""
    script, folders = load_script("retrieval_based/export_model.py"), {}
    for name, (_, checkpoint) in encoders.items():
        folders[name] = tmp_path_factory.mktemp("encoder_bundles") / name
        assert script.main(["--params_path", str(checkpoint), "--output_path", str(folders[name])]) == 0
    return folders


@pytest.fixture(scope="session")
def retrieval(trained, bundles, tmp_path_factory):
    """{("news" or "reviews", "labels" or "rows"): retrieval bundle of that corpus}, made of the trained classifiers."""
    from retrieval_bundles import make_retrieval_bundle

    from text_cls.bundle import open_bundle
    from text_cls.cli import Problems
    from text_cls.rows import read_rows

    made = {}
    for task, (dataset, _) in trained.items():
        rows = read_rows(str(dataset / "train.txt"), open_bundle(str(bundles[task])).labels, Problems())
        folder = tmp_path_factory.mktemp("retrieval")
        made[task, "labels"] = make_retrieval_bundle(bundles[task], folder / "labels")
        made[task, "rows"] = make_retrieval_bundle(bundles[task], folder / "rows", rows)
    return made


@pytest.fixture(scope="module")
def milvus_file(tmp_path_factory):
    """A file of Milvus Lite, which this process keeps open until the module's tests are done."""
    from milvus_lite import server_manager_instance

    path = tmp_path_factory.mktemp("milvus") / "index.db"
    yield path
    server_manager_instance.release_server(str(path))


@pytest.fixture
def run_index(run):
    """run_index(command, bundle, *flags) -> log of an index.py that succeeds."""
    from index_commands import script

    def call(command, folder, *flags):
        status, log = run(script.main, command, "--bundle", folder, *flags)
        assert status == 0, log
        return log

    return call


@pytest.fixture
def refused_index(run):
    """refused_index(command, bundle, *flags) -> message of an index.py that ends with status 2 and changes nothing."""
    from index_commands import script

    def call(command, folder, *flags):
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        status, log = run(script.main, command, "--bundle", folder, *flags)
        assert status == 2 and "Traceback" not in log, log
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
        assert not list(folder.parent.glob(f"{folder.name}.*.tmp*"))
        return log

    return call


@pytest.fixture
def indexed_bundle(run_index, retrieval, tmp_path, request):
    """indexed_bundle(task, corpus, kind) -> folder of a copy whose index has this kind: embedded or milvus."""

    def call(task="news", corpus="labels", kind="embedded"):
        folder = shutil.copytree(retrieval[task, corpus], tmp_path / f"{task}-{corpus}-{kind}")
        if kind == "milvus":
            uri = request.getfixturevalue("milvus_file")
            rows = ("--corpus_file", tmp_path / "all.txt") if corpus == "rows" else ()
            if rows:
                source = {"news": "data", "reviews": "data/multi_label"}[task]
                names = {line.partition("\t")[2] for line in lines_of(ROOT / source / "train.txt")[:600]}
                write_lines(rows[1], [f"{i}\t{labels}" for i, labels in enumerate(sorted(names)[:50])])
            run_index("build", folder, "--corpus", corpus, *rows, "--milvus_uri", uri)
        return folder

    return call


@pytest.fixture
def label_bundle(retrieval, tmp_path):
    """A copy to change, of the hierarchy with label texts: the text of a label gets its path, others get one label."""
    from retrieval_bundles import put_index

    from text_cls.decision import Decision
    from text_cls.search.embedded_index import EmbeddedIndex

    folder = shutil.copytree(retrieval["news", "labels"], tmp_path / "bundle")
    put_index(folder, EmbeddedIndex.open(str(folder)), decision=Decision(0.9999, min_k=1, hierarchy="one_per_level"))
    return folder


@pytest.fixture(scope="session")
def masked(tmp_path_factory):
    """Folder of a masked-language ERNIE with random weights. Dropout is on."""
    import make_tiny_model

    folder = tmp_path_factory.mktemp("masked") / "model"
    size = "--hidden_size 32 --num_attention_heads 2 --intermediate_size 64 --dropout 0.1 --masked_lm".split()
    assert make_tiny_model.main(["--output_dir", str(folder), *size]) == 0
    return folder


@pytest.fixture(scope="session")
def prompted(masked, tmp_path_factory):
    """{"news" and "reviews": (data set, output_dir)} of few-shot/train.py with everything it does."""
    from prompts import PROMPTS, few_rows, train

    result = {}
    for name, source, prompt in (("news", "data", "soft"), ("reviews", "data/multi_label", "words")):
        folder = tmp_path_factory.mktemp(f"prompted_{name}")
        dataset = few_rows(ROOT / source, folder / "data")
        where = ["--data_dir", str(dataset), "--output_dir", str(folder / "out"), "--model_name_or_path", str(masked)]
        what = ["--do_train", "--do_eval", "--do_predict", "--do_export", "--prompt", PROMPTS[prompt]]
        flags = "--device cpu --max_seq_length 48 --learning_rate 3e-3 --ppt_learning_rate 5e-2 --num_train_epochs 30"
        assert train.main([*where, *what, *flags.split()]) == 0
        result[name] = dataset, folder / "out"
    return result


@pytest.fixture
def few(tmp_path):
    """A data set of 24 rows for few-shot/."""
    from prompts import few_rows

    return few_rows(ROOT / "data/multi_label", tmp_path / "data", 24, 12, 3)


@pytest.fixture
def train_prompt(run, masked, few, tmp_path):
    """train_prompt(*flags) -> (status, log): a short run of few-shot/train.py on `few` into tmp_path/out."""
    from prompts import train

    def call(*flags, data=few):
        where = ("--data_dir", data, "--output_dir", tmp_path / "out", "--model_name_or_path", masked)
        return run(train.main, *where, "--device", "cpu", "--max_seq_length", 40, "--num_train_epochs", 2, *flags)

    return call


@pytest.fixture
def run_on_copy(run, trained, tmp_path):
    """run_on_copy(main, task, *flags, edit) -> (status, log, data set), for a script that writes into its data set.

    The data set is a copy, made once and changed by `edit`; the model is the one trained on the original.
    """

    def call(main, task, *flags, edit=None):
        dataset, model = trained[task]
        copy = tmp_path / task
        if not copy.exists():
            shutil.copytree(dataset, copy)
        if edit:
            edit(copy)
        status, log = run(main, "--dataset_dir", copy, "--params_path", model, "--device", "cpu", *flags)
        return status, log, copy

    return call


@pytest.fixture
def evaluate(run_on_copy):
    """evaluate(task, *flags) -> (status, log, data set)."""
    import evaluate as script

    return functools.partial(run_on_copy, script.main)


@pytest.fixture
def file_server(tmp_path):
    """A local server of a folder: (its address, the folder)."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}", folder
        httpd.shutdown()


@pytest.fixture(scope="session")
def triton():
    """.venv-triton's Python; without one, the test is skipped, or fails if CI should have it."""
    from triton_server import PYTHON, VENV

    if not list(VENV.glob(".ready-*")):
        message = f"{VENV} is not ready: make triton-setup"
        available = (sys.platform, platform.machine()) == ("linux", "x86_64")
        pytest.fail(message) if os.environ.get("CI") and available else pytest.skip(message)
    return PYTHON


@pytest.fixture(scope="session")
def paddle_serving():
    """.venv-serving's Python; without one, the test is skipped, or fails if CI should have it."""
    from serving_process import PYTHON, VENV

    if not list(VENV.glob(".ready-*")):
        message = f"{VENV} is not ready: make serving-setup"
        available = (sys.platform, platform.machine()) == ("linux", "x86_64")
        pytest.fail(message) if os.environ.get("CI") and available else pytest.skip(message)
    return PYTHON


def plain(log):
    """Log lines without time and level."""
    return [re.sub(r"^\[.*?\] \[.*?\] - ", "", line) for line in log.splitlines()]
