"""A bundle is replaced by another one between two files that a reader opens: what is loaded belongs to one of them."""

import shutil

import numpy as np
import onnxruntime
import pytest
from bundle_versions import renamed
from conftest import lines_of
from index_commands import script as index_script

import build_repository
from text_cls import bundle as bundle_module
from text_cls.bundle import open_bundle
from text_cls.cli import UserError
from text_cls.files import _exchange
from text_cls.search.embedded_index import EmbeddedIndex
from text_cls.serving import open_predictor, predictor, retrieval_predictor
from text_cls.serving.predictor import Predictor

TEXTS = ["股票大跌", "足球比赛"]


@pytest.fixture
def during(monkeypatch):
    """during(module, name, during, after): the next call of a function, and only that, comes between two actions."""

    def call(module, name, before, after=lambda: None):
        real, left = getattr(module, name), [(before, after)]

        def wrapped(*args, **options):
            first, last = left.pop() if left else (lambda: None, lambda: None)
            first()
            result = real(*args, **options)
            last()
            return result

        monkeypatch.setattr(module, name, wrapped)

    return call


@pytest.fixture
def pair(bundles, tmp_path):
    """(a bundle, another one to replace it with, {first label: the predictor of that bundle})."""
    first = shutil.copytree(bundles["reviews"], tmp_path / "a")
    second = renamed(first, tmp_path / "b")
    whole = [Predictor(str(folder), num_threads=1) for folder in (first, second)]
    return first, second, {one.labels.names[0]: one for one in whole}


def assert_whole(one, whole):
    """All of a predictor is that of one of the two bundles, whose probabilities differ."""
    expected = whole[one.labels.names[0]]
    assert np.array_equal(one.probabilities(TEXTS), expected.probabilities(TEXTS))
    assert one.bundle.digest == expected.bundle.digest


@pytest.mark.parametrize("back", [False, True])
def test_a_predictor(pair, during, back):
    """The graph would be the second bundle's; `back`: the first one is in its place again when all is loaded."""
    first, second, whole = pair

    def swap():
        _exchange(str(second), str(first))

    during(onnxruntime, "InferenceSession", swap, swap if back else lambda: None)
    assert_whole(Predictor(str(first), num_threads=1), whole)


def test_the_sums_and_the_files_after_them(pair, during):
    """The swap comes after the last sum and before label.txt and decision.json are read."""
    first, second, whole = pair
    during(bundle_module, "read_labels", lambda: _exchange(str(second), str(first)))
    opened = open_bundle(str(first))
    assert opened.digest == whole[opened.labels.names[0]].bundle.digest


def test_a_bundle_of_the_other_kind(pair, during, retrieval):
    """The kind is read first, and decides which class opens the bundle."""
    first, second, _ = pair
    shutil.rmtree(second)
    shutil.copytree(retrieval["news", "labels"], second)
    during(predictor, "open_bundle", lambda: _exchange(str(second), str(first)))
    assert open_predictor(str(first), num_threads=1).kind == "retrieval"


def test_a_triton_repository(pair, during, run, tmp_path):
    first, second, whole = pair
    during(build_repository, "configurations", lambda: _exchange(str(second), str(first)))
    status, log = run(build_repository.main, "--bundle", first, "--output", tmp_path / "models")
    assert status == 0, log
    models = tmp_path / "models"
    name = lines_of(models / "seqcls_postprocess" / "1" / "bundle" / "label.txt")[0]
    folder = whole[name].bundle.folder  # where it was opened; the two have been exchanged
    other = {str(first): second, str(second): first}[folder]
    assert (models / "seqcls_model" / "1" / "model.onnx").read_bytes() == (other / "model.onnx").read_bytes()
    assert lines_of(models / "tokenizer" / "1" / "bundle" / "label.txt")[0] == name


@pytest.fixture
def indexes(retrieval, tmp_path):
    """(a retrieval bundle, the same with an index in which each label has the name of another)."""
    from retrieval_bundles import put_index

    first, second = (shutil.copytree(retrieval["reviews", "labels"], tmp_path / name) for name in "cd")
    old = EmbeddedIndex.open(str(second))
    names = list(old.labels())
    encoder = open_predictor(str(second), num_threads=1)
    index = EmbeddedIndex(old.width)
    index.add(encoder.embed(names), [(f"新{name}",) for name in names])
    put_index(second, index, [f"新{name}" for name in encoder.labels.names])
    return first, second


def agree(one):
    return set(one.index.labels()) <= set(one.labels.names)


def test_an_index(indexes, during):
    first, second = indexes
    during(retrieval_predictor, "open_index", lambda: _exchange(str(second), str(first)))
    assert agree(open_predictor(str(first), num_threads=1))


def test_an_index_that_was_replaced_since_its_encoder_was_opened(indexes):
    """A script that embeds first and searches later; the labels in memory are not those of the new index."""
    first, second = indexes
    one = retrieval_predictor.RetrievalPredictor(str(first), num_threads=1)
    _exchange(str(second), str(first))
    with pytest.raises(UserError, match="entries.json is not the file of this bundle.*run this again if index.py"):
        one.load_index()


def test_a_reopened_index(indexes, during):
    first, second = indexes
    one = open_predictor(str(first), num_threads=1)
    during(retrieval_predictor, "open_index", lambda: _exchange(str(second), str(first)))
    assert agree(one.reopened())


def test_a_list_of_an_index(indexes, during, run):
    first, second = indexes
    during(index_script, "open_index", lambda: _exchange(str(second), str(first)))
    status, log = run(index_script.main, "list", "--bundle", first)
    counts = [line.split("\t")[1] for line in log.splitlines() if "\t" in line]
    assert status == 0 and counts and "0" not in counts


def test_what_was_loaded_stays(indexes, pair):
    """The folder may be replaced, and even deleted, while a predictor is in use."""
    for folder in (indexes[0], pair[0]):
        one = open_predictor(str(folder), num_threads=1)
        expected = list(one.predict(TEXTS))
        shutil.rmtree(folder)
        for (names, scores), (wanted, theirs) in zip(one.predict(TEXTS), expected):
            assert names == wanted and np.array_equal(scores, theirs)
