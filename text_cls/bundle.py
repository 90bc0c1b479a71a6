"""The bundle: a folder that can be served without Paddle, and whose files always belong together.

It has the static graph, model.onnx (and perhaps int8_model.onnx, fp16_model.onnx), the tokenizer files, label.txt,
decision.json, README.md (the model card), perhaps reference.json (what it predicts on dev), and manifest.json: the
SHA-256 of every file, inputs and outputs, maximum length, how longer texts are read, versions, the facts of the card.
None of the files read here is a pickle. A bundle of kind "retrieval" has an encoder instead of a classifier, and an
index from vectors to label names; its labels may change while its graph stays the same.
"""

import contextlib
import hashlib
import os
import shutil
from dataclasses import dataclass

from text_cls.blend import RECORD as BLEND
from text_cls.blend import Blend
from text_cls.card_facts import CARD as CARD_FACTS
from text_cls.card_usage import bundle_usage
from text_cls.cascade import RECORD as CASCADE
from text_cls.cascade import Cascade
from text_cls.cli import Problems, UserError
from text_cls.decision import Decision
from text_cls.files import atomic_folder, atomic_write, read_unchanged, recover_folder, sha256, write_json
from text_cls.language import N_, reason_of, tr
from text_cls.linear_classifier import LINEAR
from text_cls.long_texts import RECORD, LongTexts
from text_cls.model_card import CARD, ENCODER, MODEL, model_card
from text_cls.reference import REFERENCE
from text_cls.rows import Labels, read_labels
from text_cls.schema import (
    FILE_NAME,
    FLAG,
    NAME,
    SHA256,
    TEXT,
    by_kind,
    fields,
    list_of,
    map_of,
    number,
    one_of,
    or_null,
    parse_json,
    read_bytes,
    whole,
)
from text_cls.tokenization import CHARACTERS_FILE

MANIFEST, DECISION, VERSION = "manifest.json", "decision.json", 1
# ONNX files by variant, with the names that PaddleNLP's application gives to its converted models.
VARIANTS = {"float32": "model.onnx", "fp16": "fp16_model.onnx", "int8": "int8_model.onnx"}
CLASSIFICATION, RETRIEVAL = "classification", "retrieval"
KINDS = (CLASSIFICATION, RETRIEVAL)
BUNDLE_SCRIPTS = {CLASSIFICATION: N_("export_model.py or prune.py"), RETRIEVAL: "retrieval_based/export_model.py"}
REMEDIES = {
    CLASSIFICATION: N_("export it again (python export_model.py) or copy all of it"),
    RETRIEVAL: N_("export it again (python retrieval_based/export_model.py) or copy all of it"),
}
# Files that are loaded if they are in the folder, so that they must not be there unless the manifest has them.
OPTIONAL = {"added_tokens.json", "index.hnsw", "sentencepiece.bpe.model", "template.json", "tokenizer.json"}
OPTIONAL |= {CHARACTERS_FILE, REFERENCE}

_TENSOR = {"name": NAME, "shape": list_of(whole(-1))}
_FIELDS = {
    "version": whole(VERSION, VERSION),
    "model": NAME,
    "model_type": NAME,
    "static_graph": or_null(FILE_NAME),
    "inputs": list_of(fields({**_TENSOR, "dtype": one_of("int64")}), least=1),
    "outputs": list_of(fields({**_TENSOR, "dtype": one_of("float32")}), least=1),
    "num_labels": whole(1),
    "hierarchical": FLAG,
    "max_seq_length": whole(1),
    "longest_input": or_null(whole(1)),
    "pad_token_id": whole(0),
    "variants": list_of(one_of(*VARIANTS)),
    "files": map_of(SHA256, key=FILE_NAME),
}
_CALIBRATION = fields({"slope": number(0, 1e6), "offset": number(-1e6, 1e6)})  # of `search.label_scores`
_RETRIEVAL_FIELDS = {
    "kind": one_of(RETRIEVAL),
    "width": whole(1),
    "corpus": one_of("labels", "rows"),
    "search": fields({"vote": FLAG, "neighbours": whole(1)}, {"calibration": _CALIBRATION}),
    "index": or_null(
        by_kind({"embedded": fields({}), "milvus": fields({"uri": TEXT, "collection": TEXT}, {"bundle": TEXT})})
    ),
}
_OPTIONAL_FIELDS = {
    "vocab_size": or_null(whole(1)),
    "type_vocab_size": or_null(whole(1)),
    "versions": map_of(TEXT),
    "unmeasured": list_of(one_of(*VARIANTS)),
    "card": CARD_FACTS,
}
_CLASSIFICATION_FIELDS = {"long_texts": RECORD, "cascade": CASCADE, "blend": BLEND}  # all optional
_CHECK = by_kind(
    {
        CLASSIFICATION: fields(_FIELDS, {**_OPTIONAL_FIELDS, **_CLASSIFICATION_FIELDS}),
        RETRIEVAL: fields({**_FIELDS, **_RETRIEVAL_FIELDS}, _OPTIONAL_FIELDS),
    },
    default=CLASSIFICATION,
)


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

    @property
    def long_texts(self) -> LongTexts:
        """How texts are read that are longer than max_seq_length; a bundle that does not say it cuts them."""
        return LongTexts(**self.manifest.get("long_texts", {}))

    @property
    def cascade(self) -> Cascade | None:
        """If a linear model answers the rows that it is sure of."""
        return Cascade(**self.manifest["cascade"]) if "cascade" in self.manifest else None

    @property
    def blend(self) -> Blend | None:
        """If the probabilities are means of those of two models."""
        return Blend(**self.manifest["blend"]) if "blend" in self.manifest else None

    def onnx_file(self, variant: str) -> str:
        """The path of a variant's graph. Raises UserError if the bundle does not have it."""
        variants = self.manifest["variants"]
        if variant not in variants:
            remedy, held = tr(REMEDIES[self.kind]), f", only {', '.join(variants)}" if variants else ""
            if variant != "float32" and self.manifest["model_type"] == LINEAR:
                remedy = tr("a linear model needs no other")
            elif variant != "float32" and self.kind == CLASSIFICATION:
                more = "".join(f" --{name} LINEAR" for name in ("blend", "cascade") if name in self.manifest)
                flags = f"--{variant}{more} --dataset_dir data --output_path {self.folder}"
                remedy = tr("make it: python export_model.py {flags}", flags=flags)
            raise UserError(
                tr(
                    "{folder} holds no {variant} model{held}; {remedy}",
                    folder=self.folder,
                    variant=variant,
                    held=held,
                    remedy=remedy,
                )
            )
        return os.path.join(self.folder, VARIANTS[variant])


def write_card(folder, fields):
    """Writes the model card of a bundle that has its labels and its decision. fields: of the manifest."""
    labels = read_labels(os.path.join(folder, "label.txt"), Problems(), of_model=True)
    decision = Decision.load(os.path.join(folder, DECISION), labels.names)
    kind = fields.get("kind", CLASSIFICATION)
    both = {name: made(**fields[name]) for name, made in (("cascade", Cascade), ("blend", Blend)) if name in fields}
    text = model_card(
        fields.get("card", {}),
        labels,
        decision,
        fields["max_seq_length"],
        LongTexts(**fields.get("long_texts", {})),
        {"library_name": "onnx", "tags": ["onnx", fields["model_type"]]},
        bundle_usage(kind),
        LINEAR if fields["model_type"] == LINEAR else ENCODER if kind == RETRIEVAL else MODEL,
        **both,
    )
    with atomic_write(os.path.join(folder, CARD)) as file:
        file.write(text)


def write_manifest(folder, fields):
    """Makes a folder a bundle: writes `manifest.json` with the fields and the SHA-256 of every file."""
    names = sorted(name for name in os.listdir(folder) if name != MANIFEST)
    variants = [variant for variant, name in VARIANTS.items() if name in names]
    files = {name: sha256(os.path.join(folder, name)) for name in names}
    write_json(os.path.join(folder, MANIFEST), {"version": VERSION, **fields, "variants": variants, "files": files})


def copy_without_graphs(bundle: Bundle, folder: str | os.PathLike) -> None:
    """Copies a bundle without its graphs to a new folder: a bundle of its own, whose manifest has just these files."""
    graphs = (*VARIANTS.values(), f"{bundle.manifest['static_graph']}.", "model_state.pdparams")
    files = {name: digest for name, digest in bundle.manifest["files"].items() if not name.startswith(graphs)}
    os.makedirs(folder)
    for name in files:
        shutil.copyfile(os.path.join(bundle.folder, name), os.path.join(folder, name))
    write_json(os.path.join(folder, MANIFEST), {**bundle.manifest, "variants": [], "files": files})


def files_of_bundle(folder):
    """Names of the files in a bundle's manifest, and the manifest itself; empty without a readable manifest."""
    path = os.path.join(folder, MANIFEST)
    try:
        return {MANIFEST, *parse_json(read_bytes(path), path, fields({"files": map_of(TEXT)}), "")["files"]}
    except (OSError, UserError):
        return set()


def bundle_kind(folder):
    """One of `KINDS`, by the bundle's manifest. Without a readable one, `open_bundle` reports what is wrong."""
    recover_folder(folder)
    try:
        return _read_manifest(folder, None)[0].get("kind", CLASSIFICATION)
    except UserError:
        return CLASSIFICATION


def strange_files_problem(bundle):
    """Why a bundle's folder must not be replaced: it has files that are not the bundle's. None if it may be."""
    strange = sorted(set(os.listdir(bundle.folder)) - {MANIFEST, *bundle.manifest["files"]})
    return (
        tr(
            "{folder} also has {strange}, which would be lost; move it elsewhere",
            folder=bundle.folder,
            strange=", ".join(strange[:5]),
        )
        if strange
        else None
    )


@contextlib.contextmanager
def changed_bundle(bundle, changing):
    """Replaces some files of a bundle in one step: a reader finds either the old bundle or the new one.

    Yields a folder with the files that are not in `changing`, and the fields of the manifest; complete both. The card
    follows. When the block ends without an error the folder replaces the bundle. Unchanged files are hard links if the
    file system supports them.

    Raises:
        UserError: the folder has a file that is not the bundle's and would be lost, or another process changed it.
    """
    if problem := strange_files_problem(bundle):
        raise UserError(problem)
    kept = {name: digest for name, digest in bundle.manifest["files"].items() if name not in {*changing, CARD}}
    with atomic_folder(bundle.folder) as folder:
        for name in kept:
            source, target = os.path.join(bundle.folder, name), os.path.join(folder, name)
            try:
                os.link(source, target)
            except OSError:
                shutil.copyfile(source, target)
        fields = dict(bundle.manifest)
        yield folder, fields
        write_card(folder, fields)
        new = {name: sha256(os.path.join(folder, name)) for name in os.listdir(folder) if name not in kept}
        files = dict(sorted({**kept, **new}.items()))
        write_json(os.path.join(folder, MANIFEST), {**fields, "files": files})
        if sha256(os.path.join(bundle.folder, MANIFEST)) != bundle.digest:
            raise UserError(
                tr("{folder} was changed by another process; nothing was done, run it again", folder=bundle.folder)
            )


def replace_decision(bundle, decision, reference=None):
    """Replaces the decision in a bundle's folder; see `changed_bundle` for what it raises.

    reference: the `Reference` of this decision; without one, the bundle has none any more.
    """
    with changed_bundle(bundle, {DECISION, REFERENCE}) as (folder, _):
        decision.save(os.path.join(folder, DECISION), bundle.labels.names)
        if reference:
            reference.write(folder)


def _what_to_name(folder, kind):
    """What to do about a folder without a manifest, as the end of a sentence. kind: the kind of bundle needed."""
    made_by = tr(BUNDLE_SCRIPTS[kind or CLASSIFICATION])
    inner = os.path.join(folder, "export")  # where few-shot/train.py puts it
    if os.path.isfile(os.path.join(inner, MANIFEST)):
        return tr("the bundle is in {inner}, use that", inner=inner)
    if any(os.path.isfile(os.path.join(folder, name)) for name in ("model.safetensors", "model_state.pdparams")):
        return tr(
            "{folder} is a checkpoint: export it, and name the folder that {made_by} wrote",
            folder=folder,
            made_by=made_by,
        )
    return tr("name a folder that {made_by} wrote", made_by=made_by)


def open_bundle(folder: str, kind: str | None = None) -> Bundle:
    """Opens a bundle and checks that all its files match its manifest, byte for byte.

    The sums find what happens by accident: a file that was cut off, edited, or copied from another bundle. They do not
    stop someone who may write to the folder, and could write another manifest as well.

    Args:
        kind: one of `KINDS`, if no other is acceptable.
    Raises:
        UserError: it is not a bundle, or of another kind, or files are missing or changed; the message says which.
    """
    return read_unchanged(folder, lambda: _open(folder, kind))


def _open(folder, kind):
    recover_folder(folder)
    manifest, digest = _read_manifest(folder, kind)
    found = manifest.get("kind", CLASSIFICATION)
    if kind not in (None, found):
        raise UserError(
            tr(
                "{folder} is a bundle of kind {found}, but {kind} is needed here; name a folder that {bundle_scripts} "
                "wrote",
                folder=folder,
                found=found,
                kind=kind,
                bundle_scripts=tr(BUNDLE_SCRIPTS[kind]),
            )
        )
    remedy, problems = tr(REMEDIES[found]), Problems()
    for name in sorted(OPTIONAL & set(os.listdir(folder)) - set(manifest["files"])):
        problems.add(
            tr(
                "{folder}: {name} is not a file of this bundle; delete it, or {remedy}",
                folder=folder,
                name=name,
                remedy=remedy,
            )
        )
    for problem in file_problems(folder, manifest["files"], remedy):
        problems.add(problem)
    problems.stop_if_any()
    labels = read_labels(os.path.join(folder, "label.txt"), problems, of_model=True)
    problems.stop_if_any()
    if len(labels) != manifest["num_labels"]:
        raise UserError(
            tr(
                "{folder}: label.txt has {count} labels, the model {num_labels}; {remedy}",
                folder=folder,
                count=len(labels),
                num_labels=manifest["num_labels"],
                remedy=remedy,
            )
        )
    columns = manifest["width"] if found == RETRIEVAL else len(labels)
    if [tensor["shape"] for tensor in manifest["outputs"]] != [[-1, columns]]:
        raise UserError(
            tr(
                "{folder}/{manifest}: outputs must be one tensor of shape [-1, {columns}]; {remedy}",
                folder=folder,
                manifest=MANIFEST,
                columns=columns,
                remedy=remedy,
            )
        )
    decision = Decision.load(os.path.join(folder, DECISION), labels.names, remedy)
    return Bundle(folder, manifest, labels, decision, digest)


def _read_manifest(folder, kind):
    """The checked manifest of a bundle and its SHA-256. kind: the kind of bundle needed, or None."""
    path = os.path.join(folder, MANIFEST)
    try:
        content = read_bytes(path)
    except OSError as error:
        raise UserError(f"{path}: {reason_of(error)}; {_what_to_name(folder, kind)}") from error
    remedy = tr(REMEDIES[kind or CLASSIFICATION])
    manifest = parse_json(content, path, _CHECK, remedy, (VERSION,))
    problems = Problems()
    for problem in _contradictions(manifest):
        problems.add(f"{path}: {problem}; {remedy}")
    problems.stop_if_any()
    return manifest, hashlib.sha256(content).hexdigest()


def _contradictions(manifest):
    """Yields what does not fit together in a manifest whose fields are right one by one."""
    longest = manifest["longest_input"]
    if longest and manifest["max_seq_length"] > longest:
        yield tr(
            "max_seq_length {max_seq_length} is above longest_input {longest}",
            max_seq_length=manifest["max_seq_length"],
            longest=longest,
        )
    if manifest.get("kind") == RETRIEVAL and manifest["search"]["vote"] and "calibration" in manifest["search"]:
        yield tr("search.calibration is for cosines, not for votes")
    needed = {"label.txt", DECISION, "tokenizer_config.json"}
    needed |= {VARIANTS[variant] for variant in manifest["variants"]}
    if manifest["model_type"] != LINEAR and "tokenizer.json" not in manifest["files"]:  # these need no other file
        needed |= {"vocab.txt", "sentencepiece.bpe.model"} if manifest["model_type"] == "ernie_m" else {"vocab.txt"}
    needed |= {CHARACTERS_FILE} if {"cascade", "blend"} & manifest.keys() else set()
    if manifest.get("kind") == RETRIEVAL and manifest["index"] and manifest["index"]["kind"] == "embedded":
        needed |= {"vectors.npy", "entries.json"}
    for name in sorted(needed - set(manifest["files"])):
        yield tr("files has no {name}", name=name)


def file_problems(folder, files, remedy):
    """Yields which files of a folder are missing or not those of these sums, {name: SHA-256}."""
    for name, digest in sorted(files.items()):
        path = os.path.join(folder, name)
        try:
            if not os.path.isfile(path):
                yield tr("{folder}: {name} is missing; {remedy}", folder=folder, name=name, remedy=remedy)
            elif sha256(path) != digest:
                yield tr(
                    "{folder}: {name} is not the file of this bundle (its SHA-256 differs); {remedy}",
                    folder=folder,
                    name=name,
                    remedy=remedy,
                )
        except OSError as error:
            yield f"{path}: {reason_of(error)}; {remedy}"
