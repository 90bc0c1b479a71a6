"""The bundle: a folder that can be served without Paddle, and whose files always belong together.

It has the static graph, model.onnx (and perhaps int8_model.onnx, fp16_model.onnx), the tokenizer files, label.txt,
decision.json, and manifest.json: the SHA-256 of every file, inputs and outputs, maximum length, versions. None of the
files read here is a pickle. A bundle of kind "retrieval" has an encoder instead of a classifier, and an index from
vectors to label names; its labels may change while its graph stays the same.
"""

import contextlib
import hashlib
import json
import os
import shutil
from dataclasses import dataclass

from text_cls.cli import Problems, UserError
from text_cls.decision import Decision
from text_cls.files import atomic_folder, recover_folder, sha256, write_json
from text_cls.rows import Labels, read_labels

MANIFEST, DECISION, VERSION = "manifest.json", "decision.json", 1
# ONNX files by variant, with the names that PaddleNLP's application gives to its converted models.
VARIANTS = {"float32": "model.onnx", "fp16": "fp16_model.onnx", "int8": "int8_model.onnx"}
REQUIRED = {"model", "model_type", "variants", "num_labels", "max_seq_length", "longest_input"}  # keys of a manifest
CLASSIFICATION, RETRIEVAL = "classification", "retrieval"
KINDS = (CLASSIFICATION, RETRIEVAL)
BUNDLE_SCRIPTS = {CLASSIFICATION: "export_model.py or prune.py", RETRIEVAL: "retrieval_based/export_model.py"}


@dataclass
class Bundle:
    """A checked bundle on disk."""

    folder: str
    manifest: dict
    labels: Labels
    decision: Decision
    digest: str  # SHA-256 of manifest.json, in hexadecimal

    @property
    def kind(self) -> str:
        """One of `KINDS`."""
        return self.manifest.get("kind", CLASSIFICATION)

    def onnx_file(self, variant: str) -> str:
        """The path of a variant's graph. Raises UserError if the bundle does not have it."""
        if variant not in self.manifest["variants"]:
            raise UserError(
                f"{self.folder} holds no {variant} model, only {', '.join(self.manifest['variants'])}. To make one: "
                f"python export_model.py --{variant} --dataset_dir data --output_path {self.folder}"
            )
        return os.path.join(self.folder, VARIANTS[variant])


def write_manifest(folder, fields):
    """Makes a folder a bundle: writes `manifest.json` with the fields and the SHA-256 of every file."""
    names = sorted(name for name in os.listdir(folder) if name != MANIFEST)
    variants = [variant for variant, name in VARIANTS.items() if name in names]
    files = {name: sha256(os.path.join(folder, name)) for name in names}
    write_json(os.path.join(folder, MANIFEST), {"version": VERSION, **fields, "variants": variants, "files": files})


def files_of_bundle(folder):
    """Names of the files in a bundle's manifest, and the manifest itself; empty without a readable manifest."""
    try:
        with open(os.path.join(folder, MANIFEST), encoding="utf-8") as file:
            return {MANIFEST, *json.load(file)["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def bundle_kind(folder):
    """One of `KINDS`, by the bundle's manifest. Without a readable one, `open_bundle` reports what is wrong."""
    recover_folder(folder)
    try:
        with open(os.path.join(folder, MANIFEST), encoding="utf-8") as file:
            return json.load(file).get("kind", CLASSIFICATION)
    except (OSError, ValueError, AttributeError):
        return CLASSIFICATION


def strange_files_problem(bundle):
    """Why a bundle's folder must not be replaced: it has files that are not the bundle's. None if it may be."""
    strange = sorted(set(os.listdir(bundle.folder)) - {MANIFEST, *bundle.manifest["files"]})
    return (
        f"{bundle.folder} also has {', '.join(strange[:5])}, which would be lost; move it elsewhere"
        if strange
        else None
    )


@contextlib.contextmanager
def changed_bundle(bundle, changing):
    """Replaces some files of a bundle in one step: a reader finds either the old bundle or the new one.

    Yields a folder with the files that are not in `changing`, and the fields of the manifest; complete both. When the
    block ends without an error the folder replaces the bundle. Unchanged files are hard links if the file system
    supports them.

    Raises:
        UserError: the folder has a file that is not the bundle's and would be lost, or another process changed it.
    """
    if problem := strange_files_problem(bundle):
        raise UserError(problem)
    kept = {name: digest for name, digest in bundle.manifest["files"].items() if name not in changing}
    with atomic_folder(bundle.folder) as folder:
        for name in kept:
            source, target = os.path.join(bundle.folder, name), os.path.join(folder, name)
            try:
                os.link(source, target)
            except OSError:
                shutil.copyfile(source, target)
        fields = dict(bundle.manifest)
        yield folder, fields
        new = {name: sha256(os.path.join(folder, name)) for name in os.listdir(folder) if name not in kept}
        files = dict(sorted({**kept, **new}.items()))
        write_json(os.path.join(folder, MANIFEST), {**fields, "files": files})
        if sha256(os.path.join(bundle.folder, MANIFEST)) != bundle.digest:
            raise UserError(f"{bundle.folder} was changed by another process; nothing was done, run it again")


def replace_decision(bundle, decision):
    """Replaces the decision in a bundle's folder; see `changed_bundle` for what it raises."""
    with changed_bundle(bundle, {DECISION}) as (folder, _):
        decision.save(os.path.join(folder, DECISION))


def _what_to_name(folder, kind):
    """What to do about a folder without a manifest, as the end of a sentence. kind: the kind of bundle needed."""
    made_by = BUNDLE_SCRIPTS[kind or CLASSIFICATION]
    inner = os.path.join(folder, "export")  # where few-shot/train.py puts it
    if os.path.isfile(os.path.join(inner, MANIFEST)):
        return f"the bundle is in {inner}, use that"
    if os.path.isfile(os.path.join(folder, "model_state.pdparams")):
        return f"{folder} is a checkpoint: export it, and name the folder that {made_by} wrote"
    return f"name a folder that {made_by} wrote"


def open_bundle(folder: str, kind: str | None = None) -> Bundle:
    """Opens a bundle and checks that all its files match its manifest, byte for byte.

    Args:
        kind: one of `KINDS`, if no other is acceptable.
    Raises:
        UserError: it is not a bundle, or of another kind, or files are missing or changed; the message says which.
    """
    recover_folder(folder)
    path, remedy = os.path.join(folder, MANIFEST), "export it again (python export_model.py) or copy all of it"
    try:
        with open(path, "rb") as file:
            content = file.read()
        manifest = json.loads(content)
        version, files = manifest["version"], dict(manifest["files"])
        if version == VERSION and not REQUIRED <= set(manifest):
            raise KeyError(REQUIRED - set(manifest))
        if version == VERSION and manifest.get("kind") == RETRIEVAL:
            _check_retrieval(manifest)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; {_what_to_name(folder, kind)}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged; {remedy}") from error
    if version != VERSION:
        raise UserError(f"{path}: version {version!r} is unknown (this code reads version {VERSION})")
    if problem := _kind_problem(manifest.get("kind", CLASSIFICATION), kind):
        raise UserError(f"{folder} {problem}")
    problems = Problems()
    for name, digest in sorted(files.items()):
        if os.path.basename(name) != name or not os.path.isfile(os.path.join(folder, name)):
            problems.add(f"{folder}: {name} is missing; {remedy}")
        elif sha256(os.path.join(folder, name)) != digest:
            problems.add(f"{folder}: {name} is not the file of this bundle (its SHA-256 differs); {remedy}")
    problems.stop_if_any()
    labels = read_labels(os.path.join(folder, "label.txt"), problems, of_model=True)
    problems.stop_if_any()
    if len(labels) != manifest["num_labels"]:
        raise UserError(f"{folder}: label.txt has {len(labels)} labels, the model {manifest['num_labels']}; {remedy}")
    try:
        decision = Decision.load(os.path.join(folder, DECISION))
    except ValueError as error:
        raise UserError(f"{folder}/{DECISION}: {error}") from error
    if problem := decision.problem(len(labels)):
        raise UserError(f"{folder}/{DECISION}: {problem}; {remedy}")
    return Bundle(folder, manifest, labels, decision, hashlib.sha256(content).hexdigest())


def _check_retrieval(manifest):
    """Raises KeyError, TypeError or ValueError if the manifest does not say how labels are found."""
    corpus, search, index = manifest["corpus"], manifest["search"], manifest["index"]
    numbers = manifest["width"], search["neighbours"]
    if not all(isinstance(number, int) and number > 0 for number in numbers) or not isinstance(search["vote"], bool):
        raise ValueError(numbers)
    if corpus not in ("labels", "rows") or index is not None and index["kind"] not in ("embedded", "milvus"):
        raise ValueError(corpus, index)
    if index is not None and index["kind"] == "milvus":
        if not all(isinstance(index[name], str) for name in ("uri", "collection")):
            raise ValueError(index)


def _kind_problem(kind, wanted):
    """Why a bundle of this kind cannot be used, as the end of a sentence; None if it can. wanted: a kind, or None."""
    if kind not in KINDS:
        return f"is of kind {kind!r}, which is unknown; the kinds are {' and '.join(KINDS)}"
    if wanted in (None, kind):
        return None
    return f"is a bundle of kind {kind}, but {wanted} is needed here; name a folder that {BUNDLE_SCRIPTS[wanted]} wrote"
