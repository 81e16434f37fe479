#!/usr/bin/env bash
# Fill docker/wheels, from which the image is built where a container can not reach PyPI.
#
#   docker/wheels.sh [PYTHON]
#
# PYTHON is one of the image's version, 3.11, with pip; a C compiler makes the fast kernels.
# TORCH_INDEX is where torch comes from if pip is to look beside its configured index.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-python3}

"$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' ||
    { echo "$python is not Python 3.11, which the image has" >&2; exit 1; }
rm -rf docker/wheels
"$python" -m pip wheel --quiet --wheel-dir docker/wheels --constraint constraints.txt \
    ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} .
