"""What the tests of index.py share: the script, the kinds of index, and what a bundle contains."""

import json
import os
from importlib.util import find_spec

import pytest
from conftest import load_script

from text_cls.search.open_index import open_index
from text_cls.serving import open_predictor

script = load_script("retrieval_based/index.py")
needs_milvus = pytest.mark.skipif(
    not (find_spec("pymilvus") and find_spec("milvus_lite")) and not os.environ.get("CI"),
    reason="pymilvus and milvus-lite: pip install -r requirements/milvus.txt",
)
KINDS = ["embedded", pytest.param("milvus", marks=needs_milvus)]
HOSTILE = ["引\"号' or 1==1", "<script>alert(1)</script>", "😀", "100%\\n {x}", "长" * 2000]


def manifest_of(folder):
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


def entries_of(folder):
    return open_index(str(folder), manifest_of(folder)).labels()


def nearest(folder, text):
    """Names of the entry nearest to a text, its cosine, and the label with the highest score (the last in a tie)."""
    predictor = open_predictor(str(folder), num_threads=1)
    found = predictor.index.search(predictor.embed([text]), 1)
    scores = predictor.probabilities([text])[0]
    return found.labels[0][0], found.cosines[0, 0], predictor.labels.names[len(scores) - 1 - scores[::-1].argmax()]
