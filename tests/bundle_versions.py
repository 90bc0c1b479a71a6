"""Another version of a bundle, for tests of what happens when a bundle is replaced."""

import shutil

import onnx
from conftest import lines_of, write_lines

from text_cls.bundle import open_bundle, write_manifest


def renamed(folder, target):
    """A copy of a bundle with other label names and another bias in its graph."""
    shutil.copytree(folder, target)
    names = lines_of(target / "label.txt")
    write_lines(target / "label.txt", [f"B{number}" for number in range(len(names))])
    model = onnx.load(str(target / "model.onnx"))
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.shape == (len(names),):
            tensor.CopyFrom(onnx.numpy_helper.from_array((values + 5).astype(values.dtype), tensor.name))
    onnx.save(model, str(target / "model.onnx"))
    fields = open_bundle(str(folder)).manifest
    made = ("version", "variants", "files")
    fields = {**{name: value for name, value in fields.items() if name not in made}, "hierarchical": False}
    write_manifest(str(target), fields)
    return target
