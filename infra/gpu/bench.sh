#!/usr/bin/env bash
# The numerical core on this machine's GPU (or, with --size small, on its processor): correct first, then timed.
#
#   infra/gpu/bench.sh [--size small] [--minutes 8] [--to FILE]     again and again until it says "all there is"
#
# Needs an image with jax, flax, optax, numpy, scipy and scikit-learn, and installs nothing into it: what that lacks of
# the few packages below is read from infra/gpu/wheels, which infra/gpu/carry.sh fills on a machine with a network.
set -euo pipefail
python=$(command -v "${PYTHON:-python3}")
case $python in /*) ;; *) python=$PWD/$python ;; esac
cd "$(dirname "$0")/../.."
carried=build/gpu-packages
needed="jaxtyping pydantic safetensors threadpoolctl"

if ! "$python" -c "import ${needed// /, }" 2>/dev/null; then
  if [ ! -d infra/gpu/wheels ]; then
    echo "bench.sh: one of $needed is missing, and so is infra/gpu/wheels; run infra/gpu/carry.sh where there is a network" >&2
    exit 2
  fi
  mkdir -p "$carried"
  for wheel in infra/gpu/wheels/*.whl; do "$python" -m zipfile -e "$wheel" "$carried"; done
fi
# the GPU's memory is asked for as it is needed, or every peak would be the whole of it
export XLA_PYTHON_CLIENT_PREALLOCATE=false
export PYTHONPATH="$PWD:$PWD/$carried${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" -m tests.benchmarks.grid "$@"
