# The runtime on a desktop NVIDIA GPU: TensorRT-RTX engines and x86 CPUs. No torch, no CUDA toolkit: the driver comes from the host
# (nvidia-container-toolkit), the libraries from the wheels.
#   python -m build --wheel && docker build -f docker/desktop.Dockerfile -t segc-desktop .
#   docker run --rm --gpus all -v "$PWD":/data segc-desktop benchmark /data/bundle --all
# EXTRAS=gpu takes ONNX Runtime's CUDA provider instead (it replaces onnxruntime, whose package it excludes).
# Never built by us: the machines we have run no container engine. hadolint reads it, and its steps were run in an empty environment.
FROM python:3.11-slim
ARG EXTRAS=rtx,openvino
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility,video
WORKDIR /data
COPY constraints.txt dist/*.whl /tmp/
RUN wheel="$(ls /tmp/segc-*.whl)" \
    && pip install --no-cache-dir -c /tmp/constraints.txt "${wheel}[${EXTRAS}]" \
    && case ",${EXTRAS}," in *,gpu,*) pip uninstall -y onnxruntime onnxruntime-gpu && pip install --no-cache-dir 'onnxruntime-gpu[cuda,cudnn]==1.31.1' ;; esac \
    && rm /tmp/segc-*.whl
ENTRYPOINT ["segc"]
