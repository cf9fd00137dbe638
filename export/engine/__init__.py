"""Deploy graph -> TensorRT engine: TensorRT 10, TensorRT 11 and TensorRT-RTX behind one settings object."""
