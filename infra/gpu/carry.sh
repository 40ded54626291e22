#!/usr/bin/env bash
# Fetch the wheels that infra/gpu/bench.sh needs beside a plain JAX image, for that image's Python: carry.sh [3.11]
set -euo pipefail
python=$(command -v "${PYTHON:-python3}")
case $python in /*) ;; *) python=$PWD/$python ;; esac
cd "$(dirname "$0")"
version=${1:-3.11}
"$python" -m pip download --quiet --no-deps --only-binary=:all: --dest wheels \
  --python-version "$version" --platform manylinux_2_17_x86_64 --constraint ../constraints.txt \
  jaxtyping wadler-lindig pydantic pydantic-core annotated-types typing-extensions typing-inspection safetensors \
  threadpoolctl
echo "infra/gpu/wheels: $(ls wheels | wc -l) wheels for Python $version"
