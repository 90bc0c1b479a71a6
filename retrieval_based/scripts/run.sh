#!/bin/sh
# Rebuild the index of the bundle from its labels, or from training rows: CORPUS=data/train.txt sh scripts/run.sh
# In Milvus: MILVUS=http://host:19530 sh scripts/run.sh, or without a server: MILVUS=milvus.db sh scripts/run.sh
set -e
HERE=$(cd "$(dirname "$0")/.." && pwd)
KIND=${CORPUS:+rows}
"${PYTHON:-python}" "$HERE/index.py" build \
    --bundle "${BUNDLE:-output}" \
    --corpus "${KIND:-labels}" \
    ${CORPUS:+--corpus_file "$CORPUS"} \
    ${MILVUS:+--milvus_uri "$MILVUS"} \
    "$@"
