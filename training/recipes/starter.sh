#!/bin/sh
# Rebuild the starter bundle: base encoder → continued pretraining → six heads on one encoder → int8 bundle.
#   training/recipes/starter.sh DATA BASE [WORK]     (hours on two cores; the same command again goes on)
set -eu
data=$1
base=$2
work=${3:-build/starter}
recipes=$(dirname "$0")
mkdir -p "$work"
# One thread a process: beside anything else on the machine, two threads that wait for each other are slower than one.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

[ -e "$work/corpus" ] || python -m training corpus "$data/pretrain/wikipedia.jsonl.xz" \
    --tokenizer "$base" --out "$work/corpus" --limit 2600 --held-out 0.02
python -m training pretrain "$recipes/continue.toml" --out "$work/pretrained" \
    --set corpus="$work/corpus" --set base="$base"
python -m training finetune "$recipes/starter.toml" --out "$work/finetuned" \
    --set base="$work/pretrained" --set corpus="$work/corpus" --set data="$data"
python -m training export "$work/finetuned" --out models/starter --replace --precision int8 --limit 600 --version 0.1.0 \
    --card "$recipes/starter.md" \
    --data sentiment="$data/classification/sst2/validation.jsonl" \
    --data nli="$data/pair/nli/validation.jsonl.xz" \
    --data ner="$data/tagging/ewt_ner/validation.jsonl" \
    --data qa="$data/qa/validation.jsonl.xz"
