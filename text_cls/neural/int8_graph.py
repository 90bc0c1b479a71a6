"""ONNX graphs in 8 bits for CPUs, whose result for a text does not depend on the texts that share its batch. No Paddle.

ONNX Runtime's `quantize_dynamic` takes one scale for all activations of a batch: a text's logits then change with its
company, by more than 1. Here each token has its own scale and each column of a weight, as in LLM.int8 (Dettmers et al.
2022, section 3.1). benchmarks/int8.py compares both.
"""

import numpy as np

# On processors without VNNI, ONNX Runtime adds two products of a uint8 and an int8 in 16 bits, and what does not fit is
# cut off (its guide on quantization, "U8S8"). 2 x 255 x 64 fits.
LARGEST_WEIGHT = 64
LARGEST, ZERO = 127, 128  # activations in 8 bits are 1 to 255; 128 stands for 0
SMALLEST = 1e-20  # scale: nothing is divided by zero
MICROSOFT = "com.microsoft"  # domain of ONNX Runtime's own operators
PRODUCTS = ("MatMul", "Gemm")


def to_int8(source, target):
    """Writes `target`, the graph of `source` (of `onnx_graph.optimise`) with the products of its layers in 8 bits.

    Pooler and classifier stay in float32. They run once per text, not per token, and would lose most of the F1.
    """
    import onnx

    model = onnx.load(source)
    graph, nodes = _Graph(model), list(model.graph.node)
    unsqueezed = {name for node in nodes if node.op_type == "Unsqueeze" for name in node.output}
    last = {node.output[0] for node in [node for node in nodes if node.op_type in PRODUCTS][-2:]}  # pooler, classifier
    for node in nodes:
        is_product, name = node.op_type in PRODUCTS, node.output[0]
        if is_product and (name in last or node.input[0] in unsqueezed):  # the latter is mean pooling
            graph.add_twice(node)
        elif is_product and node.input[1] in graph.weights:
            graph.add_quantised(node)
        else:
            graph.add_unchanged(node)
    graph.finish()
    onnx.save(model, target)


class _Graph:
    """The graph of a model whose nodes are added anew, one by one."""

    def __init__(self, model):
        from onnx import helper

        self.model, self.nodes, self.constants = model, [], set()
        self.weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self.quantised = {}  # {name of a float tensor: (its name in 8 bits, the name of its scales)}
        if MICROSOFT not in {opset.domain for opset in model.opset_import}:
            model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))

    def add(self, kind, inputs, *outputs, domain="", **attributes):
        """Adds a node. Returns the name of its first output."""
        from onnx import helper

        name = f"{outputs[0]}_{kind}"
        self.nodes.append(helper.make_node(kind, inputs, outputs, name=name, domain=domain, **attributes))
        return outputs[0]

    def constant(self, name, value):
        """Adds a numpy value, unless it is there already. Returns its name."""
        from onnx import numpy_helper

        if name not in self.constants:
            self.constants.add(name)
            self.model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def add_unchanged(self, node):
        # With a single query per text, products take ONNX Runtime's path for one row (`add_twice`): let it be two.
        if node.name == "first_token_state":
            node.input[2] = self.constant("third_token", np.array([2], np.int64))
        self.nodes.append(node)

    def add_twice(self, node):
        """Adds a product in float32 whose rows, the last axis but one of its left operand, are there twice.

        ONNX Runtime has a faster product for a single row, which adds in another order. With two rows at least, the
        digits of a result depend neither on how many texts share the batch nor on padding.
        """
        left, result = node.input[0], node.output[0]
        node.input[0] = self.add("Concat", [left, left], f"{result}_rows", axis=-2)
        node.output[0] = f"{result}_twice"
        self.nodes.append(node)
        self.add("Split", [node.output[0]], result, f"{result}_unused", axis=-2)

    def add_quantised(self, node):
        """Adds a product in 8 bits in place of one with constant weights."""
        from onnx import numpy_helper

        left, name, result = node.input[0], node.input[1], node.output[0]
        weights = numpy_helper.to_array(self.weights[name])
        if any(attribute.name == "transB" and attribute.i for attribute in node.attribute):
            weights = weights.T
        scale = np.maximum(np.abs(weights).max(axis=0) / LARGEST_WEIGHT, SMALLEST).astype(np.float32)
        inputs = [
            self.constant(f"{name}_int8", np.rint(weights / scale).astype(np.int8)),
            self.constant("int8_one", np.float32(1)),
            self.constant(f"{name}_scale", scale),
            self.constant("int8_zero", np.uint8(ZERO)),
        ]
        if left not in self.quantised:
            self.quantised[left] = self.add_activations(left, len(weights))
        activations, scales = self.quantised[left]
        product = self.add("MatMulIntegerToFloat", [activations, *inputs], f"{result}_int8", domain=MICROSOFT)
        bias = list(node.input[2:])
        scaled = self.add("Mul", [product, scales], f"{result}_unbiased" if bias else result)
        if bias:
            self.add("Add", [scaled, *bias], result)

    def add_activations(self, name, width):
        """Adds a tensor [..., width] in 8 bits. Returns its name and that of its scales [..., 1]."""
        high = self.add("ReduceMax", [name], f"{name}_high", axes=[-1])
        low = self.add("ReduceMin", [name], f"{name}_low", axes=[-1])
        largest = self.add("Max", [high, self.add("Neg", [low], f"{name}_negated")], f"{name}_largest")
        scales = self.add("Mul", [largest, self.constant("int8_step", np.float32(1 / LARGEST))], f"{name}_step")
        scales = self.add("Max", [scales, self.constant("int8_smallest", np.float32(SMALLEST))], f"{name}_scales")
        # QuantizeLinear takes one scale for each index of one axis: each token becomes an index of the first.
        rows = self.add("Reshape", [name, self.constant(f"rows_{width}", np.array([-1, width]))], f"{name}_rows")
        flat = self.add("Reshape", [scales, self.constant("int8_flat", np.array([-1]))], f"{name}_flat_scales")
        count = self.add("Shape", [flat], f"{name}_count")
        zeros = self.add("Expand", [self.constant("int8_zeros", np.full(1, ZERO, np.uint8)), count], f"{name}_zeros")
        whole = self.add("QuantizeLinear", [rows, flat, zeros], f"{name}_whole", axis=0)
        shape = self.add("Shape", [name], f"{name}_shape")
        return self.add("Reshape", [whole, shape], f"{name}_int8"), scales

    def finish(self):
        """Writes the nodes into the model, and removes weights that are used no more."""
        graph = self.model.graph
        del graph.node[:]
        graph.node.extend(self.nodes)
        used = {name for node in graph.node for name in node.input}
        kept = [tensor for tensor in graph.initializer if tensor.name in used]
        del graph.initializer[:]
        graph.initializer.extend(kept)
