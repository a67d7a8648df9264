# JetPack 5.1 (Xavier, Orin): TensorRT 8.5, CUDA 11.4. Its Python is 3.8, and edgeopt needs 3.10, for which NVIDIA ships
# no bindings: they are built here from the sources of the same release. Build in the repository's root:
#   docker build -f deploy/jetpack5.Dockerfile -t edgeopt:jetpack5 .
ARG BASE=nvcr.io/nvidia/l4t-jetpack:r35.4.1
FROM ${BASE} AS bindings
ARG PYTHON=3.10
ARG TENSORRT=release/8.5
ENV DEBIAN_FRONTEND=noninteractive
RUN apt-get update \
 && apt-get install -y --no-install-recommends software-properties-common git cmake g++ \
 && add-apt-repository -y ppa:deadsnakes/ppa \
 && apt-get install -y --no-install-recommends "python${PYTHON}-dev" "python${PYTHON}-venv" \
 && rm -rf /var/lib/apt/lists/*
RUN git clone --depth 1 --branch "${TENSORRT}" --recurse-submodules --shallow-submodules \
      https://github.com/NVIDIA/TensorRT /trt \
 && git clone --depth 1 --branch v2.9.2 https://github.com/pybind/pybind11 /ext/pybind11 \
 && mkdir -p "/ext/python${PYTHON}" && cp -r "/usr/include/python${PYTHON}" "/ext/python${PYTHON}/include"
RUN python${PYTHON} -m venv /build-env && /build-env/bin/pip install --no-cache-dir setuptools wheel numpy
ENV PATH=/build-env/bin:$PATH
RUN cd /trt/python \
 && EXT_PATH=/ext TRT_OSSPATH=/trt TENSORRT_MODULE=tensorrt TARGET_ARCHITECTURE=aarch64 \
    PYTHON_MAJOR_VERSION=3 PYTHON_MINOR_VERSION="${PYTHON#3.}" ./build.sh \
 && cp build/dist/tensorrt-*.whl /

FROM ${BASE}
ARG PYTHON=3.10
ENV DEBIAN_FRONTEND=noninteractive
RUN apt-get update \
 && apt-get install -y --no-install-recommends software-properties-common libgl1 libglib2.0-0 \
 && add-apt-repository -y ppa:deadsnakes/ppa \
 && apt-get install -y --no-install-recommends "python${PYTHON}-dev" "python${PYTHON}-venv" g++ \
 && rm -rf /var/lib/apt/lists/*
COPY --from=bindings /tensorrt-*.whl /wheels/
COPY pyproject.toml README.md LICENSE /src/
COPY edgeopt /src/edgeopt
# cuda-python has no wheels for CUDA 11.4 on Arm; pycuda compiles against what is here.
RUN python${PYTHON} -m venv /opt/edgeopt \
 && CUDA_ROOT=/usr/local/cuda PATH=/usr/local/cuda/bin:$PATH \
    /opt/edgeopt/bin/pip install --no-cache-dir /src /wheels/tensorrt-*.whl pycuda \
 && rm -rf /src /wheels
ENV PATH=/opt/edgeopt/bin:$PATH EDGEOPT_CACHE=/cache PYTHONUNBUFFERED=1
VOLUME /cache
ENTRYPOINT ["edgeopt"]
CMD ["doctor"]
