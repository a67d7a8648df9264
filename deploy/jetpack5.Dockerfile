# JetPack 5.1 (Xavier, Orin): TensorRT 8.5, CUDA 11.4. Its Python is 3.8, and edgeopt needs 3.10, for which NVIDIA ships
# no bindings: they are built here from the sources of the same release. Build in the repository's root:
#   docker build -f deploy/jetpack5.Dockerfile -t edgeopt:jetpack5 .
# Python 3.10 is python-build-standalone's, fetched by uv: Ubuntu 20.04 has none any more.
ARG BASE=nvcr.io/nvidia/l4t-jetpack:r35.4.1
FROM ${BASE} AS python
ARG PYTHON=3.10
ENV DEBIAN_FRONTEND=noninteractive UV_PYTHON_INSTALL_DIR=/opt/python
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3-pip ca-certificates libgl1 libglib2.0-0 \
 && rm -rf /var/lib/apt/lists/* \
 && python3 -m pip install --no-cache-dir uv \
 && uv python install "${PYTHON}" \
 && ln -s "$(uv python find "${PYTHON}")" /usr/local/bin/python3-edgeopt

FROM python AS bindings
ARG PYTHON=3.10
ARG TENSORRT=8.5.2
RUN apt-get update \
 && apt-get install -y --no-install-recommends git cmake g++ make \
 && rm -rf /var/lib/apt/lists/*
RUN git clone --depth 1 --branch "${TENSORRT}" --recurse-submodules --shallow-submodules \
      https://github.com/NVIDIA/TensorRT /trt \
 && git clone --depth 1 --branch v2.9.2 https://github.com/pybind/pybind11 /ext/pybind11 \
 && mkdir -p "/ext/python${PYTHON}" \
 && cp -rL "$(python3-edgeopt -c 'import sysconfig; print(sysconfig.get_path("include"))')" "/ext/python${PYTHON}/include"
RUN python3-edgeopt -m venv /build-env && /build-env/bin/pip install --no-cache-dir setuptools wheel numpy
ENV PATH=/build-env/bin:$PATH
RUN cd /trt/python \
 && EXT_PATH=/ext TRT_OSSPATH=/trt TENSORRT_MODULE=tensorrt TARGET_ARCHITECTURE=aarch64 \
    PYTHON_MAJOR_VERSION=3 PYTHON_MINOR_VERSION="${PYTHON#3.}" ./build.sh \
 && cp build/dist/tensorrt-*.whl /

FROM python
COPY --from=bindings /tensorrt-*.whl /wheels/
COPY pyproject.toml README.md LICENSE /src/
COPY edgeopt /src/edgeopt
# CUDA is reached by the driver's own library, so that nothing has to be compiled for it.
RUN python3-edgeopt -m venv /opt/edgeopt \
 && /opt/edgeopt/bin/pip install --no-cache-dir /src /wheels/tensorrt-*.whl \
 && rm -rf /src /wheels
ENV PATH=/opt/edgeopt/bin:$PATH EDGEOPT_CACHE=/cache PYTHONUNBUFFERED=1
VOLUME /cache
ENTRYPOINT ["edgeopt"]
CMD ["doctor"]
