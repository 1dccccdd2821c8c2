# Training, with CUDA. In the top folder:
#
#   docker build -f docker/train.Dockerfile -t lit-ad .
#
# docs/deploy.md says how to run it. The wheels of torch bring CUDA with them: the machine needs NVIDIA's driver and
# container toolkit, and nothing else.
ARG PYTHON=3.12

FROM python:${PYTHON}-slim
RUN python -m venv /opt/lit_ad
ENV PATH=/opt/lit_ad/bin:$PATH
WORKDIR /source
COPY . .
# pyproject.toml has the bounds of versions. The folders are anyone's: a user that --user names has no home.
# hadolint ignore=DL3013
RUN pip install --no-cache-dir '.[demo,onnx,openvino,serve]' \
 && install --directory --mode 1777 /runs /cache
ENV HOME=/cache XDG_CACHE_HOME=/cache PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /runs
ENTRYPOINT ["lit-ad"]
CMD ["--help"]
