# The runtime on an x86 CPU: predict, validate, benchmark and report a bundle. No torch, no mmseg.
#   python -m build --wheel && docker build -f docker/runtime.Dockerfile -t segc .
#   docker run --rm -v "$PWD":/data segc validate /data/bundle@int8 --data /data/set
# Never built by us: the machines we have run no container engine. Its steps are those of tests/wheel/try_wheel.sh, which CI runs.
FROM python:3.11-slim
WORKDIR /data
COPY constraints.txt dist/*.whl /tmp/
RUN wheel="$(ls /tmp/segc-*.whl)" && pip install --no-cache-dir -c /tmp/constraints.txt "${wheel}[openvino]" && rm /tmp/segc-*.whl
ENTRYPOINT ["segc"]
