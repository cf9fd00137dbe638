"""The operators as a TensorRT plugin library in C++ and CUDA: ``build.build_plugin`` compiles it; kernels/ knows no TensorRT."""
