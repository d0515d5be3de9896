# GPU image: the pinned set with DeepSpeed, then flash-attn.
#   docker build -t open-r1-vlm .
#   docker run --gpus all --ipc=host -it -v /path/to/data:/data open-r1-vlm
# The base image carries the pinned torch, its CUDA toolkit and nvcc.
FROM pytorch/pytorch:2.13.0-cuda13.0-cudnn9-devel

ARG EXTRAS=deepspeed,quant
ENV DEBIAN_FRONTEND=noninteractive PIP_NO_CACHE_DIR=1 PIP_BREAK_SYSTEM_PACKAGES=1

RUN apt-get update \
    && apt-get install -y --no-install-recommends git make ninja-build \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /workspace/open-r1-vlm
COPY setup.py requirements.txt ./
COPY src/open_r1/__init__.py src/open_r1/__init__.py
RUN python -m pip install -r requirements.txt -e ".[${EXTRAS}]"

# Second step, only where there is nvcc: flash-attn builds against the torch that is installed above, hence after it and
# without build isolation. Leave it out with `--build-arg FLASH_ATTN=`; attention is then torch's own (sdpa).
ARG FLASH_ATTN=flash-attn
RUN if [ -n "${FLASH_ATTN}" ]; then MAX_JOBS=8 python -m pip install --no-build-isolation "${FLASH_ATTN}"; fi

COPY . .
CMD ["bash"]
