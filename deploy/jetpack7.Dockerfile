# JetPack 7 (Thor, and Orin from 7.2 on): TensorRT 10.13 and newer, CUDA 13, Python 3.12. There is no L4T image for it:
# Jetson is an ordinary Arm server (SBSA) there, so NVIDIA's TensorRT image serves. Build in the repository's root:
#   docker build -f deploy/jetpack7.Dockerfile -t edgeopt:jetpack7 .
#   docker run --rm --runtime nvidia -v "$PWD:/bundles" -v edgeopt-cache:/cache edgeopt:jetpack7 verify /bundles/x.edgeopt
ARG BASE=nvcr.io/nvidia/tensorrt:25.09-py3
FROM ${BASE}
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3-venv libgl1 libglib2.0-0 \
 && rm -rf /var/lib/apt/lists/*
COPY pyproject.toml README.md LICENSE /src/
COPY edgeopt /src/edgeopt
RUN python3 -m venv --system-site-packages /opt/edgeopt \
 && /opt/edgeopt/bin/pip install --no-cache-dir /src 'cuda-python>=13' \
 && rm -rf /src
ENV PATH=/opt/edgeopt/bin:$PATH EDGEOPT_CACHE=/cache PYTHONUNBUFFERED=1
VOLUME /cache
ENTRYPOINT ["edgeopt"]
CMD ["doctor"]
