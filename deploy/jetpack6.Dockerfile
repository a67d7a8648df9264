# JetPack 6 (Orin): TensorRT 8.6 to 10.3, CUDA 12, Python 3.10. Build in the repository's root:
#   docker build -f deploy/jetpack6.Dockerfile -t edgeopt:jetpack6 .
#   docker run --rm --runtime nvidia -v "$PWD:/bundles" -v edgeopt-cache:/cache edgeopt:jetpack6 verify /bundles/x.edgeopt
# The image's JetPack has to be the board's: TensorRT builds engines for itself, and DLA's libraries are the host's. The
# default is for JetPack 6.1 and 6.2 (TensorRT 10.3). For 6.0 (L4T 36.2 or 36.3, TensorRT 8.6) add
#   --build-arg BASE=nvcr.io/nvidia/l4t-jetpack:r36.3.0
ARG BASE=nvcr.io/nvidia/l4t-jetpack:r36.4.0
FROM ${BASE}
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3-venv python3-pip python3-libnvinfer libgl1 libglib2.0-0 \
 && rm -rf /var/lib/apt/lists/*
COPY pyproject.toml README.md LICENSE /src/
COPY edgeopt /src/edgeopt
# The system's packages hold TensorRT's bindings; CUDA is reached by the driver's own library. A package with a CUDA
# runtime of its own would be newer than the board's driver (error 35).
RUN python3 -m venv --system-site-packages /opt/edgeopt \
 && /opt/edgeopt/bin/pip install --no-cache-dir --upgrade pip \
 && /opt/edgeopt/bin/pip install --no-cache-dir /src \
 && rm -rf /src
ENV PATH=/opt/edgeopt/bin:$PATH EDGEOPT_CACHE=/cache PYTHONUNBUFFERED=1
VOLUME /cache
ENTRYPOINT ["edgeopt"]
CMD ["doctor"]
