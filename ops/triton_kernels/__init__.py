"""The GPU face of the operators: Triton kernels. Imported only where a CUDA tensor arrives, since Triton is an extra (``segc[gpu]``)."""
