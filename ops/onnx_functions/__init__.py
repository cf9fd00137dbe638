"""The operators as ONNX nodes of the domain ``segc`` with bodies of standard operators; ``signature`` says what a node looks like."""
