# An image that serves an exported detector, without torch. Build it in the top folder of the repository:
#
#   docker build -f docker/serve.Dockerfile -t lit-ad-serve .
#
# docs/deploy.md says how to run it. For files of OpenVINO, add --build-arg RUNTIME=openvino
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
ARG RUNTIME=onnxruntime
WORKDIR /source
COPY docker/serve.txt docker/
RUN python -m venv --without-pip /opt/lit_ad \
 && python -m pip --python /opt/lit_ad/bin/python install --no-cache-dir -r docker/serve.txt "${RUNTIME}"
COPY . .
RUN python -m pip --python /opt/lit_ad/bin/python install --no-cache-dir --no-deps .

FROM python:${PYTHON}-slim
COPY --from=build /opt/lit_ad /opt/lit_ad
RUN install --directory --owner 10001 --group 10001 /journal
# The service runs as user 10001, who can write to /tmp and /journal only.
ENV PATH=/opt/lit_ad/bin:$PATH XDG_CACHE_HOME=/tmp HOME=/tmp PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /tmp
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s \
  CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/health', timeout=8)"]
ENTRYPOINT ["lit-ad", "serve", "--host", "0.0.0.0"]
