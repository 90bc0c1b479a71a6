"""A bundle opened and run on ONNX Runtime."""
