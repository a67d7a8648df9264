# JetPack 7 (Thor; Orin too from 7.2 on): TensorRT 10.13 and newer, CUDA 13, Python 3.12. There is no L4T image for it:
# Jetson is an ordinary Arm server (SBSA) there, so NVIDIA's TensorRT image serves. Build in the repository's root:
#   docker build -f deploy/jetpack7.Dockerfile -t edgeopt:jetpack7 .
#   docker run --rm --runtime nvidia -v "$PWD:/bundles" -v edgeopt-cache:/cache edgeopt:jetpack7 verify /bundles/x.edgeopt
# The default is for Thor on 7.0 and 7.1 (TensorRT 10.13.3). 7.2 has TensorRT 10.16.2, and Orin is in no earlier one of
# these images ("Target GPU SM 87 is not supported"): name an image with 10.16 or newer, which the build checks.
#   --build-arg JETPACK=7.2 --build-arg BASE=nvcr.io/nvidia/tensorrt:YY.MM-py3
ARG BASE=nvcr.io/nvidia/tensorrt:25.09-py3
FROM ${BASE}
ARG JETPACK=7.1
RUN python3 -c "import sys, tensorrt; needed = {'7.0': (10, 13), '7.1': (10, 13), '7.2': (10, 16)}['${JETPACK}']; \
found = tuple(int(part) for part in tensorrt.__version__.split('.')[:2]); \
sys.exit(0 if found >= needed else f'JetPack ${JETPACK} needs TensorRT {needed}, and this image has {found}: set BASE')"
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3-venv libgl1 libglib2.0-0t64 \
 && rm -rf /var/lib/apt/lists/*
COPY pyproject.toml README.md LICENSE /src/
COPY edgeopt /src/edgeopt
# NVIDIA's images pin packages by PIP_CONSTRAINT for their own frameworks, which are not used here.
RUN python3 -m venv --system-site-packages /opt/edgeopt \
 && env -u PIP_CONSTRAINT /opt/edgeopt/bin/pip install --no-cache-dir /src \
 && rm -rf /src
ENV PATH=/opt/edgeopt/bin:$PATH EDGEOPT_CACHE=/cache PYTHONUNBUFFERED=1
VOLUME /cache
ENTRYPOINT ["edgeopt"]
CMD ["doctor"]
