"""Names, types and shapes of the inputs and outputs of a static graph, a .pdmodel file. Paddle is not needed."""

from protobuf_messages import message_class
from text_cls.cli import UserError
from text_cls.language import tr

# Those fields of Paddle's framework.proto that are read here: {message: {field: (number, type, is repeated)}}.
_MESSAGES = {
    "ProgramDesc": {"blocks": (1, "BlockDesc", True)},
    "BlockDesc": {"vars": (3, "VarDesc", True), "ops": (4, "OpDesc", True)},
    "VarDesc": {"name": (1, "string", False), "type": (2, "VarType", False)},
    "VarType": {"lod_tensor": (3, "LoDTensorDesc", False)},
    "LoDTensorDesc": {"tensor": (1, "TensorDesc", False)},
    "TensorDesc": {"data_type": (1, "int32", False), "dims": (2, "int64", True)},
    "OpDesc": {"inputs": (1, "OpVar", True), "outputs": (2, "OpVar", True), "type": (3, "string", False)},
    "OpVar": {"parameter": (1, "string", False), "arguments": (2, "string", True)},
}
_SERVING_TYPES = {3: 0, 5: 1, 2: 2}  # {data type in a graph: in Paddle Serving}: int64, float32, int32


def feeds_and_fetches(path):
    """The inputs and the outputs of a .pdmodel file: two lists of (name, type in Paddle Serving, shape).

    A shape has no entry for sizes that are only known in a run, as Paddle Serving wants it.

    Raises:
        UserError: it is not a static graph, or has a type that is not int64, int32 or float32.
    """
    from google.protobuf.message import DecodeError

    program = message_class("static_graph", _MESSAGES, "ProgramDesc")()
    with open(path, "rb") as file:
        try:
            program.ParseFromString(file.read())
        except DecodeError:
            raise UserError(
                tr("{path} is not a static graph of Paddle (.pdmodel); export the bundle again", path=path)
            ) from None
    block = program.blocks[0] if program.blocks else program.blocks.add()  # an empty one
    tensors = {var.name: var.type.lod_tensor.tensor for var in block.vars}

    def described(name):
        tensor = tensors[name]
        if tensor.data_type not in _SERVING_TYPES:
            raise UserError(
                tr(
                    "{path}: {name} is of type {data_type}, neither int64, int32 nor float32",
                    path=path,
                    name=name,
                    data_type=tensor.data_type,
                )
            )
        return name, _SERVING_TYPES[tensor.data_type], [size for size in tensor.dims if size >= 0]

    feeds = [described(op.outputs[0].arguments[0]) for op in block.ops if op.type == "feed"]
    fetches = [described(op.inputs[0].arguments[0]) for op in block.ops if op.type == "fetch"]
    if not feeds or not fetches:
        raise UserError(tr("{path} has no inputs or no outputs; export the bundle again", path=path))
    return feeds, fetches
