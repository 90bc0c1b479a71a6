"""The `onnxruntime` backend of the tests: does in Python what Triton's own backend does with a model.onnx.

The server on PyPI comes without Triton's C++ backend. Triton uses this file instead (a "Python-based backend"), so that
repositories made for a container load unchanged. Only CPU, float32 and int64, and batched models.
"""

import json
import os

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils

DEFAULT_FILE = "model.onnx"


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        if args["model_instance_kind"] == "GPU":
            raise ValueError("this backend, for tests, does not support GPUs")
        file = config.get("default_model_filename") or DEFAULT_FILE
        path = os.path.join(args["model_repository"], args["model_version"], file)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        threads = config["parameters"].get("intra_op_thread_count", {"string_value": "0"})
        options.intra_op_num_threads = int(threads["string_value"])
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.inputs = self.checked(config, "input", self.session.get_inputs())
        self.outputs = self.checked(config, "output", self.session.get_outputs())

    def checked(self, config, field, nodes):
        """Names of the model's tensors. Like Triton's backend, refuses a configuration that differs from the graph."""
        types = {"tensor(int64)": "TYPE_INT64", "tensor(float)": "TYPE_FP32"}
        graph = {node.name: (types[node.type], list(node.shape)[1:]) for node in nodes}
        configured = {
            tensor["name"]: (tensor["data_type"], [int(size) for size in tensor["dims"]]) for tensor in config[field]
        }
        if set(graph) != set(configured):
            raise ValueError(f"{field}: the graph has {sorted(graph)}, the configuration {sorted(configured)}")
        for name, (kind, shape) in graph.items():
            known, dims = configured[name]
            fits = len(shape) == len(dims) and all(isinstance(a, str) or a == b for a, b in zip(shape, dims))
            if kind != known or not fits:
                raise ValueError(f"{field} {name}: the graph has {kind} {shape}, the configuration {known} {dims}")
        return list(graph)

    def execute(self, requests):
        """One run for all requests: Triton merges only requests of equal shapes."""
        columns = [
            [pb_utils.get_input_tensor_by_name(request, name).as_numpy() for request in requests]
            for name in self.inputs
        ]
        ends = np.cumsum([len(array) for array in columns[0]])
        try:
            results = self.run([np.concatenate(arrays) for arrays in columns])
        except Exception as error:  # of any kind: the requests fail, but not the server
            failure = pb_utils.TritonError(f"onnxruntime execute failure: {error}")
            return [pb_utils.InferenceResponse([], failure) for _ in requests]
        return [self.response(parts) for parts in zip(*(np.split(result, ends[:-1]) for result in results))]

    def run(self, arrays):
        return self.session.run(self.outputs, dict(zip(self.inputs, arrays)))

    def response(self, arrays):
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in zip(self.outputs, arrays)])
