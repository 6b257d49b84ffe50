#!/bin/sh
# Everything that a GPU must show, in nine minutes, without make, a virtual environment or a network:
#   sh benchmarks/gpu_check.sh [--corpus PTB] [--device cpu --quick]
# Needs Python >= 3.11 with torch, numpy, scipy, pyarrow, safetensors and pydantic; says what it leaves out without more.
cd "$(dirname "$0")/.." && exec "${PYTHON:-python3}" -m benchmarks.gpu_check "$@"
