"""Files of weights from strangers: nothing in them is called, and what is refused is named."""

import contextlib
import io
import os
import pickle
import random
import shutil
import struct
import sys
from collections import OrderedDict

import numpy as np
import pytest
from conftest import ROOT, load_script
from hypothesis import given
from hypothesis import strategies as st

from text_cls.cli import UserError
from text_cls.files import sha256
from text_cls.neural import safe_weights
from text_cls.neural.compat import import_paddle
from text_cls.neural.model import load_pretrained

paddle = import_paddle()

from paddle.base import core
from paddlenlp.utils.serialization import UnpicklerWrapperStage

WEIGHTS = "model_state.pdparams"


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.system, (f"touch '{self.path}'",)


@pytest.fixture
def stranger(tmp_path):
    """stranger(path): makes the file a pickle that runs a program, with its sum in run.json. ran(): whether it did.

    A model.safetensors beside it is removed: it would be read instead.
    """
    trace = tmp_path / "ran"

    def call(path, around=None):
        value = {**(around or {}), "classifier.bias": Touch(trace)}
        before = sha256(path) if path.exists() else None
        path.write_bytes(pickle.dumps(value, 4))
        path.with_name("model.safetensors").unlink(missing_ok=True)
        for run in (path.parent / "run.json", path.parent.parent / "run.json"):
            if before and run.exists():
                run.write_text(run.read_text(encoding="utf-8").replace(before, sha256(path)), encoding="utf-8")
        return path

    call.ran = trace.exists
    return call


def refused(status, log, stranger, name="posix.system"):
    assert status == 2 and f"it contains {name}, which is not weights; nothing was loaded" in log, log
    assert "Traceback" not in log and not stranger.ran()


# ------------------------------------------------------------------------------------------------------- entry points


def test_a_pretrained_model(news, train, tiny_model, stranger, tmp_path):
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    path = stranger(folder / WEIGHTS)
    status, log, _ = train(news, "--model_name", folder)
    refused(status, log, stranger)
    assert str(path) in log


def test_weights_to_start_from(news, train, stranger, tmp_path):
    status, log, _ = train(news, "--init_from_ckpt", stranger(tmp_path / "x.pdparams"))
    refused(status, log, stranger)


def test_weights_after_a_download(monkeypatch, tiny_model, stranger, tmp_path):
    """A name that PaddleNLP has in its cache is loaded from there."""
    home, name = tmp_path / "home", "ernie-3.0-nano-zh"
    for module in [module for key, module in sys.modules.items() if key.startswith("paddlenlp")]:
        if "MODEL_HOME" in vars(module):
            monkeypatch.setattr(module, "MODEL_HOME", str(home))
    folder = shutil.copytree(tiny_model, home / name)
    (folder / "vocab.txt").rename(folder / "ernie_3.0_nano_zh_vocab.txt")
    assert load_pretrained(name, 5)
    stranger(folder / WEIGHTS)
    with pytest.raises(UserError, match="posix.system"):
        load_pretrained(name, 5)
    assert not stranger.ran()


@pytest.mark.parametrize("script", ["predict.py", "export_model.py", "analysis/evaluate.py", "prune.py"])
def test_a_checkpoint(run, trained, stranger, tmp_path, script):
    dataset, checkpoint = trained["news"]
    folder, data = shutil.copytree(checkpoint, tmp_path / "model"), shutil.copytree(dataset, tmp_path / "data")
    stranger(folder / WEIGHTS)
    flags = {
        "predict.py": ("--params_path", folder, "--dataset_dir", data, "--device", "cpu"),
        "export_model.py": ("--params_path", folder, "--output_path", tmp_path / "export"),
        "analysis/evaluate.py": ("--params_path", folder, "--dataset_dir", data, "--device", "cpu"),
        "prune.py": ("--params_dir", folder, "--dataset_dir", data, "--output_dir", tmp_path / "p", "--device", "cpu"),
    }
    refused(*run(load_script(script).main, *flags[script]), stranger)


def test_an_encoder_for_retrieval(run, encoders, stranger, tmp_path):
    dataset, checkpoint = encoders["news"]
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    stranger(folder / WEIGHTS)
    where = ("--params_path", folder, "--data_file", dataset / "data.txt", "--output_file", tmp_path / "predicted.txt")
    refused(*run(load_script("retrieval_based/predict.py").main, *where, "--device", "cpu"), stranger)


def test_a_masked_language_model_for_few_shot(train_prompt, masked, stranger, tmp_path):
    folder = shutil.copytree(masked, tmp_path / "model")
    stranger(folder / WEIGHTS)
    refused(*train_prompt("--do_train", "--model_name_or_path", folder), stranger)


@pytest.mark.parametrize("name", [WEIGHTS, "optimizer.pdopt", "scheduler.pdparams"])
def test_few_shot_resumes(train_prompt, stranger, tmp_path, monkeypatch, name):
    import prompt_training

    seen, score = [], prompt_training.score

    def stop(*args):
        seen.append(1)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return score(*args)

    monkeypatch.setattr(prompt_training, "score", stop)
    steps = "--do_train --eval_steps 2 --num_train_epochs 3".split()
    assert train_prompt(*steps)[0] == 130
    last = tmp_path / "out_last"
    stranger(last / "checkpoint-2" / name)
    refused(*train_prompt(*steps, "--resume_from_checkpoint", last), stranger)


def test_the_word_list_of_ernie_tiny(tiny_model, stranger, tmp_path):
    """Its tokenizer has a pickle of its own."""
    import sentencepiece
    from paddlenlp.transformers import ErnieTinyTokenizer

    model, words = tmp_path / "spm", tmp_path / "dict.wordseg.pickle"
    texts = (ROOT / "data" / "test.txt").read_text(encoding="utf-8").splitlines()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_prefix=str(model), vocab_size=2600, minloglevel=2, hard_vocab_limit=False
    )
    files = str(tiny_model / "vocab.txt"), f"{model}.model", str(words)
    for protocol in range(5):
        words.write_bytes(pickle.dumps({"足球"}, protocol))
        assert ErnieTinyTokenizer(*files).dict == {"足球"}
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "ErnieTinyTokenizer"}', encoding="utf-8")
    shutil.copy(f"{model}.model", folder / "spm_cased_simp_sampled.model")
    shutil.copy(words, folder)
    assert type(load_pretrained(str(folder), 5)[1]) is ErnieTinyTokenizer
    stranger(folder / words.name)
    with pytest.raises(UserError, match="posix.system"):
        load_pretrained(str(folder), 5)
    assert not stranger.ran()


def test_files_of_pytorch(tmp_path):
    def read(value):
        return UnpicklerWrapperStage(io.BytesIO(pickle.dumps(value))).load()

    assert read(OrderedDict(a=[1])) == {"a": [1]}
    with pytest.raises(UserError, match="posix.system"):
        read(Touch(tmp_path / "ran"))
    assert not os.listdir(tmp_path)


# --------------------------------------------------------------------------------------------------------- honest files


def same(loaded, expected):
    if isinstance(expected, dict):
        return list(loaded) == list(expected) and all(same(loaded[key], expected[key]) for key in expected)
    if isinstance(expected, (list, tuple)):
        return len(loaded) == len(expected) and all(map(same, loaded, expected))
    if isinstance(expected, paddle.Tensor):
        return loaded.dtype == expected.dtype and (loaded.numpy() == expected.numpy()).all()
    if isinstance(expected, np.ndarray):
        loaded = np.asarray(loaded)
        return loaded.dtype == expected.dtype and loaded.tolist() == expected.tolist() and type(loaded) is np.ndarray
    return loaded == expected


@pytest.fixture(scope="module")
def states():
    """What paddle.save is given: weights, optimisers, schedules, tensors."""
    model = paddle.nn.Linear(3, 4)
    schedule = paddle.optimizer.lr.LinearWarmup(0.1, 5, 0, 0.1)
    optimizer = paddle.optimizer.AdamW(learning_rate=schedule, parameters=model.parameters())
    model(paddle.ones([2, 3])).sum().backward()
    optimizer.step()
    half = {"a": model.weight.astype("bfloat16"), "b": model.weight.astype("float16"), "c": paddle.zeros([0, 3])}
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "nested": {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 1},
        "tensor": model.weight,
        "half": half,
    }


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_what_paddle_saves_loads(states, tmp_path, protocol):
    path = str(tmp_path / "x.pdparams")
    for name, state in states.items():
        paddle.save(state, path, protocol=protocol)
        loaded = paddle.load(path)
        if name == "half":  # Paddle itself gives numbers of 16 bits back
            state["a"] = loaded["a"]
        assert same(loaded, dict(state) if isinstance(state, dict) else state), name
    weight = states["tensor"]
    paddle.save(weight.value().get_tensor(), path, protocol=protocol)  # which writes a call of eval
    assert same(paddle.load(path), weight)
    core.save_dense_tensor(weight.value().get_tensor(), path)  # no pickle
    assert same(paddle.load(path), weight)


def test_random_states_load(tmp_path):
    path, generator = str(tmp_path / "rng_state.pth"), core.default_cpu_generator()
    state = {"python": random.getstate(), "numpy": np.random.get_state(), "cuda": [], "cpu": generator.get_state()}
    paddle.save(state, path)
    drawn, loaded = paddle.rand([3]).tolist(), paddle.load(path, return_numpy=True)
    generator.set_state(loaded.pop("cpu"))
    state.pop("cpu")
    assert same(loaded, state) and paddle.rand([3]).tolist() == drawn


def test_large_arrays_in_pieces_load(tmp_path):
    """Protocols 2 and 3 have arrays of 1 GiB in pieces."""
    pieces = {"a@@.0": np.arange(4), "a@@.1": np.arange(2)}
    pieces["UnpackBigParamInfor@@"] = {"a": {"OriginShape": (2, 3), "slices": list(pieces)}}
    path = tmp_path / "x.pdparams"
    path.write_bytes(pickle.dumps(pieces, 2))
    assert paddle.load(str(path), return_numpy=True)["a"].tolist() == [[0, 1, 2], [3, 0, 1]]


ARRAYS = [
    np.arange(6.0).reshape(2, 3),
    np.asfortranarray(np.arange(6).reshape(2, 3)),
    np.arange(3, dtype=">i2"),
    np.array([True, False]),
    np.array(["足球", "a"]),
    np.array(b"abc"),
    np.zeros((0, 4), np.float16),
    np.array(1j),
]


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_and_scalars_load(tmp_path, protocol):
    path = tmp_path / "x"
    value = {"arrays": ARRAYS, "number": [np.float32(1.5), np.int64(-2), np.bool_(True)], "set": {1, "b"}, "n": None}
    for text in (b"numpy.core.", b"numpy._core."):  # NumPy 1 and 2
        data = pickle.dumps(value, protocol)
        if protocol < 4:  # from then on, names have a length before them
            data = data.replace(b"numpy.core.", text)
        path.write_bytes(data)
        loaded = paddle.load(str(path), return_numpy=True)
        assert same(loaded["arrays"], pickle.loads(data)["arrays"]) and loaded["number"] == value["number"]
        assert loaded["set"] == {1, "b"} and loaded["n"] is None
        assert protocol > 4 or loaded["arrays"][0].flags.writeable


def test_all_small_models_load(families, masked, tmp_path):
    assert len(families) == 4
    for name in ("ernie", "bert"):
        families[name][0].save_pretrained(str(tmp_path / name))
        families[name][1].save_pretrained(str(tmp_path / name))
        assert load_pretrained(str(tmp_path / name), 5)


# --------------------------------------------------------------------------------------------------------------- tricks


def text(value):
    return b"\x8c" + bytes([len(value)]) + value


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btR"
OBJECTS = b"cnumpy\ndtype\n(" + text(b"O8") + b"tR"
BYTES = b"cnumpy\ndtype\n(" + text(b"i8") + b"tR"
SYSTEM = b"cposix\nsystem\n"
TRICKS = {
    "a global": (SYSTEM + b"(" + text(b"touch ran") + b"tR", "posix.system"),
    "one never called": (SYSTEM, "posix.system"),
    "two texts": (text(b"posix") + text(b"system") + b"\x93" + b"(" + text(b"touch ran") + b"tR", "posix.system"),
    "texts from the memo": (
        text(b"posix") + b"\x940" + text(b"numpy") + b"\x940" + text(b"system") + b"\x940h\x00h\x02\x93",
        "posix.system",
    ),
    "an allowed module": (text(b"numpy") + text(b"load") + b"\x93", "numpy.load"),
    "a path of names": (text(b"numpy") + text(b"ndarray.tofile") + b"\x93", "numpy.ndarray.tofile"),
    "an old instance": (b"(" + text(b"touch ran") + b"iposix\nsystem\n", "posix.system"),
    "an object": (b"(" + SYSTEM + text(b"touch ran") + b"o", "posix.system"),
    "getattr": (b"cbuiltins\ngetattr\n", "builtins.getattr"),
    "eval of more": (b"cbuiltins\neval\n(" + text(b"1+1") + b"}tR", "builtins.eval"),
    "another encoding": (b"c_codecs\nencode\n(" + text(b"a") + text(b"zip") + b"tR", "_codecs.encode to zip"),
    "objects": (OBJECTS, "an array of type O8"),
    "a pickle in a scalar": (b"cnumpy.core.multiarray\nscalar\n(" + OBJECTS + b"C\x01NtR", "an array of type O8"),
    "a list as an array": (ARRAY + b"(K\x01K\x01\x85" + BYTES + b"\x89]K\x01atb", "an array of Python objects"),
    "fields": (
        BYTES + b"(K\x03" + text(b"<") + b"N(" + text(b"a") + b"t}J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb",
        "a struc",
    ),
    "outside": (b"K\x01Q", "a reference to something outside the file"),
    "outside by name": (b"Pposix\n", "a reference to something outside the file"),
    "a changed function": (b"cnumpy\ndtype\nN}" + text(b"__call__") + b"K\x01s\x86b", "a change to a function"),
    "a function": (b"cnumpy\ndtype\n", "a function"),
    "no end": (b"]" + b"\x94" + b"".join(b"](h%ch%ce\x94" % (i, i) for i in range(60)), "containers that unfold"),
    "a list in itself": (b"]" + b"\x94h\x00a", "containers that unfold"),
    "letters for a terminal": (text(b"os\x1b[2J") + text(b"x") + b"\x93", r"'os\\x1b\[2J.x'"),
}


@pytest.mark.parametrize("protocol", [b"\x80\x04", b""])
@pytest.mark.parametrize("trick", TRICKS)
def test_tricks_are_refused_by_name(tmp_path, monkeypatch, trick, protocol):
    monkeypatch.chdir(tmp_path)
    code, name = TRICKS[trick]
    path = tmp_path / "x.pdparams"
    path.write_bytes(protocol + code + b".")
    with pytest.raises(UserError, match=f"x.pdparams: it contains {name}"):
        paddle.load(str(path))
    assert os.listdir(tmp_path) == [path.name]


DAMAGED = {
    "empty": b"",
    "only the protocol": b"\x80\x04",
    "cut": pickle.dumps({"a": np.arange(99)}, 4)[:-50],
    "an unknown extension": b"\x80\x04\x82\x01.",
    "an unknown operation": b"\x80\x04\xff.",
    "a later protocol": b"\x80\x09.",
    "nothing on the stack": b"\x80\x04.",
    "a call of a number": b"\x80\x04K\x01)R.",
    "a shape without bytes": b"\x80\x04" + ARRAY + b"(K\x01J\xff\xff\xff\x7f\x85" + BYTES + b"\x89C\x01atb.",
    "a shape below 0": b"\x80\x04" + ARRAY + b"(K\x01J\xff\xff\xff\xff\x85" + BYTES + b"\x89C\x00tb.",
    "an array never filled": b"\x80\x04" + ARRAY + b".",
    "bytes without end": b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b".",
    "nested": b"\x80\x04" + b"]" * 5000 + b"a" * 4999 + b".",
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_files(tmp_path, kind):
    path = tmp_path / "x.pdparams"
    path.write_bytes(DAMAGED[kind])
    with pytest.raises(
        UserError, match=r"x.pdparams: (not a file of weights, or damaged \(.+\)|it is damaged, or needs)"
    ):
        paddle.load(str(path))


def test_weights_without_names(news, train, tmp_path):
    path = tmp_path / "x.pdparams"
    paddle.save(paddle.ones([3]), str(path))
    status, log, _ = train(news, "--init_from_ckpt", path)
    assert status == 2 and f"--init_from_ckpt {path}: not a file of weights" in log


@given(st.data())
def test_no_change_to_a_file_runs_anything(data):
    """Bytes changed or put in at random end in an array, a UserError, or Paddle's message that it is no pickle."""
    whole = pickle.dumps(
        {"a": np.arange(3), "b": (1, "x"), "c": OrderedDict(d=[2.5])}, data.draw(st.sampled_from([2, 4]))
    )
    changed = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(changed) - 1))
        changed[place : place + data.draw(st.integers(0, 1))] = data.draw(st.binary(max_size=3))
    with contextlib.suppress(UserError, pickle.UnpicklingError):
        safe_weights.load(io.BytesIO(bytes(changed)), encoding="latin1")
