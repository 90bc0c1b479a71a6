#!/bin/sh
# Predict the labels of data.txt; by the votes of training rows: sh scripts/predict.sh --corpus_file data/train.txt --vote
set -e
HERE=$(cd "$(dirname "$0")/.." && pwd)
DATA=${DATA:-$HERE/../data}
"${PYTHON:-python}" "$HERE/predict.py" \
    --device "${DEVICE:-gpu}" \
    --params_path "${CHECKPOINT:-checkpoint}" \
    --data_file "$DATA/data.txt" \
    --output_file "${OUTPUT:-predicted.txt}" \
    --scores \
    "$@"
