#!/bin/sh
# Score the result of run_build_index.sh; if its corpus was training rows: sh scripts/evaluate.sh --vote
set -e
HERE=$(cd "$(dirname "$0")/.." && pwd)
DATA=${DATA:-$HERE/../data}
"${PYTHON:-python}" "$HERE/evaluate.py" \
    --device "${DEVICE:-gpu}" \
    --params_path "${CHECKPOINT:-checkpoint}" \
    --similar_text_pair "$DATA/dev.txt" \
    --recall_result_file recall_result_dir/recall_result.txt \
    "$@"
