#!/bin/sh
# Export the checkpoint to a bundle with an index of its labels, for a machine without Paddle.
set -e
HERE=$(cd "$(dirname "$0")/.." && pwd)
"${PYTHON:-python}" "$HERE/export_model.py" \
    --params_path "${CHECKPOINT:-checkpoint}" \
    --output_path "${BUNDLE:-output}" \
    "$@"
