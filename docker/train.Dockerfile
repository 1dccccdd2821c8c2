# An image for training with CUDA. Build it in the top folder of the repository:
#
#   docker build -f docker/train.Dockerfile -t lit-ad .
#
# docs/deploy.md says how to run it. The wheels of torch contain CUDA, so the machine needs only NVIDIA's driver and
# container toolkit.
ARG PYTHON=3.12

FROM python:${PYTHON}-slim
RUN python -m venv /opt/lit_ad
ENV PATH=/opt/lit_ad/bin:$PATH
WORKDIR /source
COPY . .
# pyproject.toml has the bounds of versions. Everyone may write to /runs and /cache, because a user given by --user has no
# home directory.
# hadolint ignore=DL3013
RUN pip install --no-cache-dir '.[demo,onnx,openvino,serve]' \
 && install --directory --mode 1777 /runs /cache
ENV HOME=/cache XDG_CACHE_HOME=/cache PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /runs
ENTRYPOINT ["lit-ad"]
CMD ["--help"]
