"""Retrieval bundles for tests, made from a classifier's bundle in a second. Vectors are its logits at unit length."""

import json
import os
import shutil
from pathlib import Path

import onnx

from text_cls.bundle import DECISION, MANIFEST, write_card, write_manifest
from text_cls.cli import Problems
from text_cls.decision import Decision
from text_cls.rows import Labels, read_labels

ENCODER = ("special_tokens_map.json", "tokenizer_config.json", "vocab.txt")


def make_encoder(source, folder, **fields):
    """A retrieval bundle without an index. fields: added to its manifest."""
    source, folder = Path(source), Path(folder)
    folder.mkdir()
    for name in (*ENCODER, "label.txt"):
        shutil.copy(source / name, folder)
    model = onnx.load(str(source / "model.onnx"))
    model.graph.node.append(onnx.helper.make_node("LpNormalization", ["logits"], ["embedding"], axis=-1, p=2))
    model.graph.output[0].name = "embedding"
    onnx.save(model, str(folder / "model.onnx"))
    Decision().save(folder / DECISION)
    manifest = json.loads((source / MANIFEST).read_text(encoding="utf-8"))
    width = manifest["outputs"][0]["shape"][1]
    kept = {
        name: manifest[name]
        for name in (
            "model",
            "model_type",
            "static_graph",
            "inputs",
            "num_labels",
            "hierarchical",
            "max_seq_length",
            "longest_input",
            "pad_token_id",
        )
    }
    outputs = [{"name": "embedding", "dtype": "float32", "shape": [-1, width]}]
    search = {"vote": False, "neighbours": 20}
    own = {"kind": "retrieval", "width": width, "outputs": outputs, "corpus": "labels", "search": search, "index": None}
    write_card(str(folder), {**kept, **own, **fields})
    write_manifest(str(folder), {**kept, **own, **fields})
    return folder


def put_index(folder, index, labels=None, decision=None, **fields):
    """Puts an index into a bundle's folder, as index.py would.

    index: an `EmbeddedIndex`, or the manifest's dict of another one. labels: new names for label.txt. fields: added to
    the manifest.
    """
    from text_cls.files import atomic_folder

    folder = Path(folder)
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    with atomic_folder(str(folder)) as new:
        for name in manifest["files"]:
            os.link(folder / name, os.path.join(new, name))
        embedded = not isinstance(index, dict)
        if embedded:
            for name in ("vectors.npy", "entries.json", "index.hnsw"):
                Path(new, name).unlink(missing_ok=True)
            index.save(new)
        if labels is not None:
            Path(new, "label.txt").unlink()
            Labels(labels).write(os.path.join(new, "label.txt"))
            fields["num_labels"] = len(labels)
        if decision is not None:
            Path(new, DECISION).unlink()
            decision.save(os.path.join(new, DECISION), read_labels(os.path.join(new, "label.txt"), Problems()).names)
        old = {name: value for name, value in manifest.items() if name not in ("version", "variants", "files")}
        write_manifest(new, {**old, "index": {"kind": "embedded"} if embedded else index, **fields})


def make_retrieval_bundle(source, folder, rows=None):
    """A retrieval bundle with one entry per label without children; with `rows.Rows`, one per row, searched by vote."""
    from text_cls.search.embedded_index import EmbeddedIndex
    from text_cls.search.label_scores import corpus_labels, label_text
    from text_cls.serving.retrieval_predictor import RetrievalPredictor

    encoder = RetrievalPredictor(str(make_encoder(source, folder)), num_threads=1)
    names, index = encoder.labels.names, EmbeddedIndex(encoder.columns)
    if rows is None:
        corpus = [names[i] for i in corpus_labels(encoder.labels)]
        index.add(encoder.embed([label_text(name) for name in corpus]), [(name,) for name in corpus])
        put_index(folder, index)
    else:
        labelled = [i for i in range(len(rows)) if len(rows.labels_of(i))]
        sets = [tuple(names[k] for k in rows.labels_of(i)) for i in labelled]
        index.add(encoder.embed([rows.texts[i] for i in labelled]), sets)
        put_index(folder, index, corpus="rows", search={"vote": True, "neighbours": 10})
    return Path(folder)
