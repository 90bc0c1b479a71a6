"""Predictions as rows that doccano or Label Studio imports, and the labels that the tool has to be set up with.

What is annotated there and exported, data/doccano.py reads.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from text_cls.cli import logger
from text_cls.files import atomic_write
from text_cls.label_tree import SEPARATOR, parent_path, paths_to, split_path
from text_cls.language import N_, tr
from text_cls.rows import Labels

DOCCANO, LABEL_STUDIO = "doccano", "label_studio"
ENDS = {DOCCANO: ".jsonl", LABEL_STUDIO: ".json"}  # of a file to import; Label Studio takes no JSON lines
TITLES = {DOCCANO: N_("doccano"), LABEL_STUDIO: N_("Label Studio")}
CHOICES, TAXONOMY = "choices", "taxonomy"
CONTROL, TEXT = "label", "text"  # names in the interface of `studio_interface`
VERSION_DIGITS = 12  # of a SHA-256


@dataclass(frozen=True)
class Tool:
    """A tool to write predictions for. name: a key of `ENDS`. labels: the model's. version: its name in the tool."""

    name: str
    labels: Labels
    version: str

    @property
    def title(self) -> str:
        return tr(TITLES[self.name])

    def setup_file(self, path: str) -> str:
        """The path of the file that sets the tool up, beside an output file."""
        stem = os.path.splitext(path)[0]
        return f"{stem}_labels.json" if self.name == DOCCANO else f"{stem}_interface.xml"

    def row(self, text: str, names: Sequence[str], scores: Sequence[float], meta: dict) -> dict:
        """A text with its predicted labels, as the tool imports it. meta: what comes back with an export."""
        meta = {**meta, "scores": dict(zip(names, scores)), "model": self.version}
        if self.name == DOCCANO:
            return {"text": text, "label": deepest(names), "meta": meta}
        kind = TAXONOMY if self.labels.hierarchical else CHOICES
        prediction = studio_prediction(names, scores, kind, CONTROL, TEXT, self.version)
        return {"data": {"text": text}, "meta": meta, "predictions": [prediction]}

    def write_setup(self, path: str) -> None:
        """Writes `setup_file`: the list of labels that doccano imports, or Label Studio's labelling interface."""
        if self.name == DOCCANO:
            content = json.dumps([{"text": name} for name in self.labels.names], ensure_ascii=False, indent=1)
        else:
            content = studio_interface(self.labels)
        with atomic_write(self.setup_file(path)) as file:
            file.write(content + "\n")

    def log_next_steps(self, path: str) -> None:
        """Logs what to do with an output file."""
        setup = self.setup_file(path)
        logger.info("Next, in %s:", self.title)
        if self.name == DOCCANO:
            logger.info("  1. new project of the type Text Classification; Labels > Import labels: %s", setup)
            logger.info("  2. Dataset > Import dataset, file format JSONL, column label: %s", path)
        else:
            logger.info("  1. new project; Settings > Labeling Interface > Code: the content of %s", setup)
            logger.info("  2. Import: %s; Settings > Annotation: use predictions of %s", path, self.version)
        task = "hierarchical" if self.labels.hierarchical else "multi_label"
        logger.info("  3. label, export as %s, then:", "JSONL" if self.name == DOCCANO else "JSON")
        logger.info(
            "  python data/doccano.py --doccano_file EXPORT --task_type %s --save_dir DATASET_DIR --valid", task
        )


def version_name(folder: str, digest: str | None) -> str:
    """The name of a model in a tool: that of its folder, and the beginning of a SHA-256 if there is one."""
    name = os.path.basename(os.path.abspath(folder))
    return f"{name} {digest[:VERSION_DIGITS]}" if digest else name


def deepest(names: Sequence[str]) -> list[str]:
    """The labels without those that are above another of them, which the path of that one names."""
    above = {path for name in names for path in paths_to(name)[:-1]}
    return [name for name in names if name not in above]


# -------------------------------------------------------------------------------------------------------- Label Studio


def studio_prediction(
    names: Sequence[str], scores: Sequence[float], kind: str, control: str, text: str, version: str
) -> dict:
    """A prediction of Label Studio (https://labelstud.io/guide/predictions.html).

    Its score is the lowest probability of a predicted label, 0 without one: sorted by it, the rows to check come first.

    Args:
        kind: `CHOICES` or `TAXONOMY`. control, text: names of the tags that have the labels and the text.
    """
    result = []
    if names:
        found = deepest(names) if kind == TAXONOMY else list(names)
        value = [split_path(name) for name in found] if kind == TAXONOMY else found
        result = [{"from_name": control, "to_name": text, "type": kind, "value": {kind: value}}]
    return {"model_version": version, "score": min(map(float, scores), default=0.0), "result": result}


def studio_interface(labels: Labels) -> str:
    """The labelling interface for these labels: a <Taxonomy> for a hierarchy, else <Choices>."""
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Text", name=TEXT, value="$text")
    if labels.hierarchical:
        nodes = {"": ElementTree.SubElement(view, "Taxonomy", name=CONTROL, toName=TEXT)}
    else:
        shape = {"choice": "multiple", "showInline": "true"}
        nodes = {"": ElementTree.SubElement(view, "Choices", name=CONTROL, toName=TEXT, **shape)}
    for path in (path for name in labels.names for path in paths_to(name)):
        if path not in nodes:
            nodes[path] = ElementTree.SubElement(nodes[parent_path(path)], "Choice", value=split_path(path)[-1])
    ElementTree.indent(view)
    return ElementTree.tostring(view, encoding="unicode")


@dataclass(frozen=True)
class Control:
    """A <Choices> or <Taxonomy> of a labelling interface for a text.

    kind: `CHOICES` or `TAXONOMY`. name, text: of the tags. field: of a task's data, with the text. labels: those that
    can be chosen; None if they come with the task.
    """

    kind: str
    name: str
    text: str
    field: str
    labels: frozenset[str] | None


def studio_controls(config: str) -> list[Control]:
    """The controls of a labelling interface that label a text as a whole.

    Raises:
        ValueError: it is no XML, or has a document type, which could make a small file large.
    """
    if "<!DOCTYPE" in config:
        raise ValueError(tr("the labelling interface has a document type"))
    try:
        root = ElementTree.fromstring(config)
    except ElementTree.ParseError as error:
        raise ValueError(tr("the labelling interface is no XML: {error}", error=error)) from error
    fields = {tag.get("name"): tag.get("value", "").removeprefix("$") for tag in root.iter("Text")}
    found = []
    for tag in root.iter():
        text, kind = tag.get("toName"), tag.tag.lower()
        if tag.tag in ("Choices", "Taxonomy") and text in fields and tag.get("name"):
            labels = None if tag.get("value") else frozenset(_choices(tag))
            found.append(Control(kind, tag.get("name"), text, fields[text], labels))
    return found


def _choices(control):
    """Yields the labels of a control, those of a tree as paths."""
    waiting = [(control, ())]
    while waiting:
        node, above = waiting.pop()
        for inner in node:
            path = above
            if inner.tag == "Choice":
                path = (*above, inner.get("alias") or inner.get("value", ""))
                yield SEPARATOR.join(path)
            waiting.append((inner, path))  # <View> and the like may be around choices
