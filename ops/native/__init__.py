"""The CPU kernels in C++: compiled once by the machine's own compiler, for its own instruction set, without torch's headers."""
