#!/bin/sh
# Pretraining on several machines: the same command on each, with a directory that all of them see as OUT.
#   FIRST=host-of-the-first NODES=2 PROCESSES=8 deploy/pretraining/nodes.sh RECIPE.toml --out OUT --set corpus=CORPUS
# A machine that is lost ends the run on all; started again, it goes on from the last checkpoint, with another NODES too.
set -eu
exec torchrun \
    --nnodes "$NODES" \
    --nproc-per-node "${PROCESSES:-1}" \
    --rdzv-backend c10d \
    --rdzv-endpoint "$FIRST:${RENDEZVOUS:-29500}" \
    --rdzv-id "${RUN:-bertheads}" \
    -m training pretrain "$@"
