# The runtime on a Jetson, built on the Jetson: TensorRT comes with the base image, everything else from wheels.
#   python -m build --wheel
# BASE_IMAGE is an image of NVIDIA's container catalogue with TensorRT; docs/jetson.md says which.
#   JetPack 7 (Python 3.12):
#     docker build -f docker/jetson.Dockerfile -t segc-jetson --build-arg BASE_IMAGE=.../tensorrt:25.08-py3 .
#   JetPack 6 (its bindings of TensorRT are for Python 3.10; put the wheel for 3.11 of NVIDIA's TensorRT 10.3 tar for L4T into dist/):
#     docker build -f docker/jetson.Dockerfile -t segc-jetson --build-arg BASE_IMAGE=.../l4t-jetpack:r36.4.0 \
#       --build-arg PYTHON=python3.11 --build-arg CUDA_BINDINGS=12.8.* .
#   docker run --rm --runtime nvidia -v "$PWD":/data segc-jetson predict /data/street.jpg -m /data/bundle@fp16 --backend tensorrt -o /data/out
# Never built by us. hadolint reads it; that its wheels exist for aarch64 and these Pythons is checked with pip (docs/jetson.md).
ARG BASE_IMAGE
# hadolint ignore=DL3006
FROM ${BASE_IMAGE}
ARG PYTHON=python3.12
ARG CUDA_BINDINGS=13.0.*
ENV DEBIAN_FRONTEND=noninteractive PATH=/opt/segc/bin:$PATH
# The CUDA toolkit of the base image has nvcc, which `segc plugins build` needs on the device.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends cmake g++ "${PYTHON}" "${PYTHON}-venv" "${PYTHON}-dev" \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /data
COPY dist/*.whl /tmp/
RUN "${PYTHON}" -m venv --system-site-packages /opt/segc \
    && /opt/segc/bin/pip install --no-cache-dir "cuda-bindings==${CUDA_BINDINGS}" /tmp/*.whl \
    && /opt/segc/bin/python -c "import tensorrt, cuda.bindings.runtime" \
    && rm /tmp/*.whl
ENTRYPOINT ["segc"]
