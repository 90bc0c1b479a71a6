#!/bin/sh
# Train the encoder: sh scripts/train.sh --epochs 20, or with other files: DATA=my_data DEVICE=cpu sh scripts/train.sh
# On several cards: GPUS=0,1 sh scripts/train.sh
set -e
HERE=$(cd "$(dirname "$0")/.." && pwd)
DATA=${DATA:-$HERE/../data}
"${PYTHON:-python}" ${GPUS:+-m paddle.distributed.launch --gpus "$GPUS"} "$HERE/train.py" \
    --device "${DEVICE:-gpu}" \
    --model_name_or_path "${MODEL:-rocketqa-zh-dureader-query-encoder}" \
    --train_set_file "$DATA/train.txt" \
    --corpus_file "$DATA/label.txt" \
    --similar_text_pair_file "$DATA/dev.txt" \
    --save_dir "${CHECKPOINT:-checkpoint}" \
    --batch_size 24 \
    --learning_rate 5e-5 \
    --epochs 100 \
    --output_emb_size 0 \
    --max_seq_length 384 \
    --margin 0.2 \
    "$@"
