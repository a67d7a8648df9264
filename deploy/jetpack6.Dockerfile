# JetPack 6 (Orin): TensorRT 8.6 to 10.3, CUDA 12, Python 3.10. Build in the repository's root:
#   docker build -f deploy/jetpack6.Dockerfile -t edgeopt:jetpack6 .
#   docker run --rm --runtime nvidia -v "$PWD:/bundles" -v edgeopt-cache:/cache edgeopt:jetpack6 verify /bundles/x.edgeopt
# The image's JetPack has to be the board's: an engine runs on the TensorRT that built it.
ARG BASE=nvcr.io/nvidia/l4t-jetpack:r36.4.0
FROM ${BASE}
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3-venv python3-pip python3-libnvinfer libgl1 libglib2.0-0 \
 && rm -rf /var/lib/apt/lists/*
COPY pyproject.toml README.md LICENSE /src/
COPY edgeopt /src/edgeopt
# The system's packages hold TensorRT's bindings; everything else is the device side and a CUDA package with wheels.
RUN python3 -m venv --system-site-packages /opt/edgeopt \
 && /opt/edgeopt/bin/pip install --no-cache-dir --upgrade pip \
 && /opt/edgeopt/bin/pip install --no-cache-dir /src 'cuda-python>=12.6,<13' \
 && rm -rf /src
ENV PATH=/opt/edgeopt/bin:$PATH EDGEOPT_CACHE=/cache PYTHONUNBUFFERED=1
VOLUME /cache
ENTRYPOINT ["edgeopt"]
CMD ["doctor"]
