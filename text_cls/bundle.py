"""The bundle: a folder that a machine without Paddle serves, and that cannot be mismatched.

Static graph, model.onnx (and perhaps int8_model.onnx, fp16_model.onnx), tokenizer files, label.txt, decision.json, and
manifest.json: the SHA-256 of every file, inputs and outputs, maximum length, versions. Nothing that is read here is a
pickle. A bundle of kind "retrieval" holds an encoder in place of a classifier, and an index of label names by vectors;
its labels may change while its graph stays.
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
# ONNX files by variant, named as the older suite named what it converted at start-up.
VARIANTS = {"float32": "model.onnx", "fp16": "fp16_model.onnx", "int8": "int8_model.onnx"}
NEEDED = {"model", "model_type", "variants", "num_labels", "max_seq_length", "longest_input"}  # of a manifest
CLASSIFICATION, RETRIEVAL = KINDS = ("classification", "retrieval")
BUNDLE_SCRIPTS = {CLASSIFICATION: "export_model.py or prune.py", RETRIEVAL: "retrieval_based/export_model.py"}


@dataclass
class Bundle:
    folder: str
    manifest: dict
    labels: Labels
    decision: Decision
    digest: str  # SHA-256 of manifest.json, in hexadecimal

    @property
    def kind(self):
        """One of `KINDS`."""
        return self.manifest.get("kind", CLASSIFICATION)

    def onnx_file(self, variant):
        """Path of a variant's graph. UserError where the bundle does not hold it."""
        if variant not in self.manifest["variants"]:
            raise UserError(
                f"{self.folder} holds no {variant} model, only {', '.join(self.manifest['variants'])}. To make one: "
                f"python export_model.py --{variant} --dataset_dir data --output_path {self.folder}"
            )
        return os.path.join(self.folder, VARIANTS[variant])


def write_manifest(folder, fields):
    """Completes a folder to a bundle: `manifest.json` of the fields and of every file that is there."""
    names = sorted(name for name in os.listdir(folder) if name != MANIFEST)
    variants = [variant for variant, name in VARIANTS.items() if name in names]
    files = {name: sha256(os.path.join(folder, name)) for name in names}
    write_json(os.path.join(folder, MANIFEST), {"version": VERSION, **fields, "variants": variants, "files": files})


def files_of_bundle(folder):
    """Names of the files that a bundle's manifest tells of, and its own; none where there is no manifest to read."""
    try:
        with open(os.path.join(folder, MANIFEST), encoding="utf-8") as file:
            return {MANIFEST, *json.load(file)["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def bundle_kind(folder):
    """One of `KINDS`, as a bundle's manifest says; where there is none to read, `open_bundle` tells of it."""
    recover_folder(folder)
    try:
        with open(os.path.join(folder, MANIFEST), encoding="utf-8") as file:
            return json.load(file).get("kind", CLASSIFICATION)
    except (OSError, ValueError, AttributeError):
        return CLASSIFICATION


def strange_files_problem(bundle):
    """What speaks against replacing a bundle's folder: something in it that is not the bundle's, or None."""
    strange = sorted(set(os.listdir(bundle.folder)) - {MANIFEST, *bundle.manifest["files"]})
    return (
        f"{bundle.folder} holds {', '.join(strange[:5])}, which would be lost; move it elsewhere" if strange else None
    )


@contextlib.contextmanager
def changed_bundle(bundle, changing):
    """Yields a folder with a bundle's files but those named in `changing`, and the fields of its manifest, to complete;
    it takes the bundle's place when the block ends well. A server that opens it finds one or the other, whole.

    All other files stay the same ones, by hard links where the file system has them.

    Raises:
        UserError: the folder holds a file that is not the bundle's and would be lost, or was changed by somebody else.
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
            raise UserError(f"{bundle.folder} was changed by another process meanwhile; nothing was done, run it again")


def replace_decision(bundle, decision):
    """Puts another decision into a bundle's folder; raises as `changed_bundle`."""
    with changed_bundle(bundle, {DECISION}) as (folder, _):
        decision.save(os.path.join(folder, DECISION))


def _what_to_name(folder, kind):
    """What to do about a folder without a manifest, as the end of a sentence. kind: of the bundle that is wanted."""
    made_by = BUNDLE_SCRIPTS[kind or CLASSIFICATION]
    inner = os.path.join(folder, "export")  # where few-shot/train.py puts it
    if os.path.isfile(os.path.join(inner, MANIFEST)):
        return f"the bundle is in {inner}, name that"
    if os.path.isfile(os.path.join(folder, "model_state.pdparams")):
        return f"{folder} is a checkpoint: export it, and name the folder that {made_by} wrote"
    return f"name a folder that {made_by} wrote"


def open_bundle(folder, kind=None):
    """A bundle whose files are those its manifest tells of, byte for byte.

    Args:
        kind: one of `KINDS` where another cannot be taken.
    Raises:
        UserError: it is no bundle, or of another kind, or a file is missing, strange or changed; the text says which.
    """
    recover_folder(folder)
    path, remedy = os.path.join(folder, MANIFEST), "export it again (python export_model.py) or copy it whole"
    try:
        with open(path, "rb") as file:
            content = file.read()
        manifest = json.loads(content)
        version, files = manifest["version"], dict(manifest["files"])
        if version == VERSION and not NEEDED <= set(manifest):
            raise KeyError(NEEDED - set(manifest))
        if version == VERSION and manifest.get("kind") == RETRIEVAL:
            _check_retrieval(**{name: manifest[name] for name in ("width", "corpus", "search", "index")})
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; {_what_to_name(folder, kind)}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged; {remedy}") from error
    if version != VERSION:
        raise UserError(f"{path}: version {version!r} is not known here (this code reads version {VERSION})")
    if problem := _kind_problem(manifest.get("kind", CLASSIFICATION), kind):
        raise UserError(f"{folder} {problem}")
    problems = Problems()
    for name, digest in sorted(files.items()):
        if os.path.basename(name) != name or not os.path.isfile(os.path.join(folder, name)):
            problems.add(f"{folder}: {name} is missing; {remedy}")
        elif sha256(os.path.join(folder, name)) != digest:
            problems.add(f"{folder}: {name} is not the file of this bundle (its SHA-256 differs); {remedy}")
    problems.stop_if_any()
    labels = read_labels(os.path.join(folder, "label.txt"), problems)
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


def _check_retrieval(width, corpus, search, index):
    """KeyError, TypeError or ValueError where a manifest's fields do not tell how labels are found."""
    numbers = width, search["neighbours"]
    if not all(isinstance(number, int) and number > 0 for number in numbers) or not isinstance(search["vote"], bool):
        raise ValueError(numbers)
    if corpus not in ("labels", "rows") or index is not None and index["kind"] not in ("embedded", "milvus"):
        raise ValueError(corpus, index)
    if index is not None and index["kind"] == "milvus":
        if not all(isinstance(index[name], str) for name in ("uri", "collection")):
            raise ValueError(index)


def _kind_problem(kind, wanted):
    """What speaks against a bundle of this kind where `wanted` is (None: any that is known), or None."""
    if kind not in KINDS:
        return f"is of kind {kind!r}, which is not known here ({', '.join(KINDS)} are)"
    if wanted in (None, kind):
        return None
    return f"is a bundle of kind {kind}, and {wanted} is wanted here; name a folder that {BUNDLE_SCRIPTS[wanted]} wrote"
