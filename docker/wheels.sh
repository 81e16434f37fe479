#!/usr/bin/env bash
# Fill build/wheels, from which the image is built where a container can not reach PyPI.
#
#   docker/wheels.sh [PYTHON]
#
# PYTHON is one of the image's version, 3.11, with pip; a C compiler makes the fast kernels.
# TORCH_INDEX is where torch comes from if pip is to look beside its configured index.
# build/wheels/needed is kept for the next time, until pyproject.toml or constraints.txt change.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-python3} wheels=build/wheels

"$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' ||
    { echo "$python is not Python 3.11, which the image has" >&2; exit 1; }
pip_wheel() { "$python" -m pip wheel --quiet --wheel-dir "$@"; }

stamp=$(cat pyproject.toml constraints.txt | sha256sum | cut -c 1-16)
if [ ! -e "$wheels/$stamp" ]; then
    rm -rf "$wheels"
    mkdir -p "$wheels"
    pip_wheel "$wheels/needed" --constraint constraints.txt \
        ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} .
    rm -f "$wheels"/needed/expertswarm-*.whl
    touch "$wheels/$stamp"
fi
rm -rf "$wheels/own"
pip_wheel "$wheels/own" --no-deps .
