"""ONNX graphs made fast for ONNX Runtime: folded, fused, reduced to what the output needs; half precision. No Paddle.

`optimise` expects the graph of a BERT-like classifier as Paddle2ONNX writes it. What it does not recognise stays
unchanged: slower, never wrong. export_model.py compares the result with the dynamic graph.
"""

import os

import numpy as np

# ONNX Runtime's own operators ("contrib ops"); its CPU and CUDA builds have them.
MICROSOFT = "com.microsoft"
MASKED = -1e4  # PaddleNLP adds this to the scores of padding


def optimise(source, target, pad_token_id):
    """Writes `target`, the model of `source` with constants folded and attention and GELU fused.

    The last layer is computed for a single token if nothing else of it is used: for the first, as in a classifier, or
    for one that is picked by its id. Everything after its keys and values is then a small fraction of the work.

    Returns:
        int: number of layers whose attention was fused.
    """
    import onnx
    from onnxruntime.transformers.onnx_model import OnnxModel

    folded = f"{target}.folded"
    try:
        _fold(source, folded)
        model = onnx.load(folded)
    finally:
        if os.path.exists(folded):
            os.remove(folded)
    graph = OnnxModel(model)
    layers = _fuse_attention(graph, pad_token_id)
    _first_token_alone(graph, layers)
    _picked_token_alone(graph, layers)
    graph.prune_graph()
    # On a CPU, SkipLayerNormalization takes about twice the time of the Add and LayerNormalization that it replaces
    # (ONNX Runtime 1.31). For GPUs, to_fp16 fuses it.
    onnx.save(_fuse_rest(graph.model, skip_layer_norm=False), target)
    return len(layers)


def _fuse_rest(model, skip_layer_norm):
    """Fuses what onnxruntime.transformers knows of Paddle's graphs besides attention: GELU with bias, LayerNorm."""
    from onnxruntime.transformers.fusion_options import FusionOptions
    from onnxruntime.transformers.optimizer import optimize_model

    options = FusionOptions("bert")
    options.enable_attention = options.enable_embed_layer_norm = False
    options.enable_skip_layer_norm = skip_layer_norm
    fused = optimize_model(model, "bert", opt_level=0, optimization_options=options)
    fused.topological_sort()
    return fused.model


def _fold(source, target):
    """Applies ONNX Runtime's basic level: constants computed, no-ops removed. Otherwise int8 would find no weights."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = target
    options.log_severity_level = 3  # it warns of files made for one machine, which only higher levels make
    onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


# -------------------------------------------------------------------------------------------------------------- fusion


def _fuse_attention(graph, pad_token_id):
    """Replaces each softmax and what surrounds it with MultiHeadAttention; onnxruntime.transformers knows the graphs of
    PyTorch and TensorFlow, not Paddle's. Returns the new nodes in order."""
    from onnx import helper, numpy_helper

    nodes = []
    for softmax in graph.get_nodes_by_op_type("Softmax"):
        found = _match_attention(graph, softmax)
        if found is None:
            continue
        query, key, value, scale, heads, last = found
        name = f"attention_{len(nodes)}"
        bias = np.concatenate([add_bias for _, add_bias in (query, key, value)])
        graph.add_initializer(numpy_helper.from_array(bias, f"{name}_bias"))
        node = helper.make_node(
            "MultiHeadAttention",
            [query[0].output[0], key[0].output[0], value[0].output[0], f"{name}_bias", "attention_mask"],
            [last.output[0]],
            name=name,
            domain=MICROSOFT,
            num_heads=heads,
            scale=scale,
            mask_filter_value=MASKED,
        )
        graph.remove_node(last)
        graph.add_node(node)
        nodes.append(node)
    if nodes:
        graph.add_initializer(numpy_helper.from_array(np.array(pad_token_id, dtype=np.int64), "pad_token_id"))
        graph.add_node(helper.make_node("Equal", ["input_ids", "pad_token_id"], ["is_padding"], name="is_padding"))
        graph.add_node(helper.make_node("Not", ["is_padding"], ["is_token"], name="is_token"))
        graph.add_node(helper.make_node("Cast", ["is_token"], ["attention_mask"], name="attention_mask", to=6))  # int32
        graph.model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    return nodes


def _match_attention(graph, softmax):
    """(query, key, value, scale, heads, last node) around a softmax, the first three as (MatMul, bias), or None."""
    mask_add = _producer(graph, softmax.input[0], "Add")
    scores = mask_add and next(filter(None, (_producer(graph, name, "MatMul") for name in mask_add.input)), None)
    scaled = scores and _producer(graph, scores.input[0], "Mul")
    weighted = _consumer(graph, softmax.output[0], "MatMul")
    transposed = weighted and _consumer(graph, weighted.output[0], "Transpose")
    last = transposed and _consumer(graph, transposed.output[0], "Reshape")
    if not (scaled and last):
        return None
    scale = graph.get_constant_value(scaled.input[1])
    parts = [_match_projection(graph, name) for name in (scaled.input[0], scores.input[1], weighted.input[1])]
    if scale is None or None in parts:
        return None
    heads = {heads for _, _, heads in parts}
    if len(heads) != 1:
        return None
    query, key, value = ((matmul, bias) for matmul, bias, _ in parts)
    return query, key, value, float(np.asarray(scale).item()), heads.pop(), last


def _match_projection(graph, name):
    """(MatMul, bias, heads) of queries, keys or values that are split into heads, or None."""
    transpose = _producer(graph, name, "Transpose")
    reshape = transpose and _producer(graph, transpose.input[0], "Reshape")
    add = reshape and _producer(graph, reshape.input[0], "Add")
    matmul = add and _producer(graph, add.input[0], "MatMul")
    if not matmul:
        return None
    bias, shape = graph.get_constant_value(add.input[1]), graph.get_constant_value(reshape.input[1])
    if bias is None or shape is None or len(shape) != 4:
        return None
    return matmul, bias, int(shape[2])


def _producer(graph, name, kind):
    node = graph.output_name_to_node().get(name)
    return node if node is not None and node.op_type == kind else None


def _consumer(graph, name, kind):
    """The only node that uses a tensor, if it is of that kind, or None."""
    nodes = graph.input_name_to_nodes().get(name, [])
    return nodes[0] if len(nodes) == 1 and nodes[0].op_type == kind else None


def _last_layer(graph, layers):
    """(input of the last layer, the nodes for which one token of it is enough: the product of the queries, the sum of
    the residual), or None if the input is used elsewhere."""
    if not layers:
        return None
    last = layers[-1]
    projections = [_producer(graph, name, "MatMul") for name in last.input[:3]]
    source = projections[0].input[0]
    users = graph.input_name_to_nodes()[source]
    residual = [node for node in users if node.op_type == "Add" and node not in projections]
    return (source, (projections[0], residual[0])) if len(users) == 4 and len(residual) == 1 else None


def _first_token_alone(graph, layers):
    """Makes the last layer compute only the first token, if nothing else of it is used."""
    from onnx import helper, numpy_helper

    found = _last_layer(graph, layers)
    final = [node for node in graph.nodes() if node.op_type == "LayerNormalization"][-1:]
    taken = graph.input_name_to_nodes().get(final[0].output[0], []) if final else []
    if not found or not taken or not all(_takes_first(graph, node) for node in taken):
        return
    for name, value in (("first", 0), ("second", 1)):
        graph.add_initializer(numpy_helper.from_array(np.array([value], dtype=np.int64), f"{name}_token"))
    source, nodes = found
    inputs = [source, "first_token", "second_token", "second_token"]  # data, starts, ends, axes
    graph.add_node(helper.make_node("Slice", inputs, ["first_token_state"], name="first_token_state"))
    for node in nodes:
        node.input[list(node.input).index(source)] = "first_token_state"


def _picked_token_alone(graph, layers):
    """The same for a token that is picked by its id: by a product with `ids == x`, as few-shot/ picks the mask."""
    from onnx import helper

    found, consumers = _last_layer(graph, layers), graph.input_name_to_nodes()
    picks = [node for node in graph.get_nodes_by_op_type("MatMul") if _picks_by_id(graph, node)]
    if not found or len(picks) != 1 or len(consumers[picks[0].input[1]]) != 1:
        return
    (pick,), (source, nodes) = picks, found
    graph.add_node(
        helper.make_node("MatMul", [pick.input[0], source], ["picked_token_state"], name="picked_token_state")
    )
    for node in nodes:
        node.input[list(node.input).index(source)] = "picked_token_state"
    graph.remove_node(pick)
    graph.replace_input_of_all_nodes(pick.output[0], pick.input[1])


def _picks_by_id(graph, node):
    """Whether a node multiplies [rows, 1, tokens], 1 for one id and 0 for all others, by the output of a layer."""
    row = _producer(graph, node.input[0], "Unsqueeze")
    number = row and _producer(graph, row.input[0], "Cast")
    axis = graph.get_constant_value(row.input[1]) if row else None
    return bool(
        number
        and np.asarray(axis).reshape(-1).tolist() == [1]
        and _producer(graph, number.input[0], "Equal")
        and _producer(graph, node.input[1], "LayerNormalization")
    )


def _takes_first(graph, node):
    """Whether a node takes position 0 of the second axis and no other."""
    values = [graph.get_constant_value(name) for name in node.input[1:]]
    if any(value is None for value in values):
        return False
    values = [np.asarray(value).reshape(-1).tolist() for value in values]
    if node.op_type == "Slice":
        return values[:3] == [[0], [1], [1]]
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
    return node.op_type == "Gather" and values == [[0]] and axis == 1


# ------------------------------------------------------------------------------------------------------ half precision


def to_fp16(source, target):
    """Half precision inside, float32 for inputs and outputs."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = _fuse_rest(onnx.load(source), skip_layer_norm=True)
    onnx.save(convert_float_to_float16(model, keep_io_types=True, disable_shape_infer=True), target)
