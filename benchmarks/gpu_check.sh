#!/bin/sh
# Everything that a GPU must show, in nine minutes, without make, a virtual environment or a network:
#   sh benchmarks/gpu_check.sh [--corpus PTB] [--device cpu --quick]
# Needs Python >= 3.11 with torch, numpy, scipy, pyarrow, safetensors and pydantic; says what it leaves out without more.
# What of these is not there can be brought along in .gpu-packages (`make gpu-pack`, on a machine that has a network).
cd "$(dirname "$0")/.." || exit
if [ -d .gpu-packages ] && ! "${PYTHON:-python3}" -c 'import pydantic' 2> /dev/null; then
  PYTHONPATH="$PWD/.gpu-packages${PYTHONPATH:+:$PYTHONPATH}" && export PYTHONPATH
fi
exec "${PYTHON:-python3}" -m benchmarks.gpu_check "$@"
