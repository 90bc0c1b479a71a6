#!/bin/sh
# Search the labels for the rows of dev.txt, or the training rows: CORPUS=data/train.txt sh scripts/run_build_index.sh
set -e
HERE=$(cd "$(dirname "$0")/.." && pwd)
DATA=${DATA:-$HERE/../data}
"${PYTHON:-python}" "$HERE/recall.py" \
    --device "${DEVICE:-gpu}" \
    --params_path "${CHECKPOINT:-checkpoint}" \
    --corpus_file "${CORPUS:-$DATA/label.txt}" \
    --similar_text_pair_file "$DATA/dev.txt" \
    --recall_result_dir recall_result_dir \
    --recall_result_file recall_result.txt \
    --recall_num 50 \
    --batch_size 64 \
    "$@"
