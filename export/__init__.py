"""Network -> deploy graph (ONNX) -> precision passes."""
