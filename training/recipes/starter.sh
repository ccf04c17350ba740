#!/bin/sh
# Rebuild the starter bundle: base encoder → continued pretraining → six heads on one encoder → int8 bundle.
#   training/recipes/starter.sh DATA BASE [WORK]     (two hours on two cores; the same command again goes on)
set -eu
data=$1
base=$2
work=${3:-build/starter}
recipes=$(dirname "$0")
mkdir -p "$work"

[ -e "$work/corpus" ] || python -m training corpus "$data/pretrain/wikipedia.jsonl.xz" \
    --tokenizer "$base" --out "$work/corpus" --limit 8000 --held-out 0.01
xz -dc "$data/pretrain/wikipedia.jsonl.xz" | tail -n 100 > "$work/unseen.jsonl" # far behind the 8,000 of the corpus
python -m training pretrain "$recipes/continue.toml" --out "$work/pretrained" \
    --set corpus="$work/corpus" --set base="$base"
python -m training finetune "$recipes/starter.toml" --out "$work/finetuned" \
    --set base="$work/pretrained" --set corpus="$work/corpus" --set data="$data"
python -m training export "$work/finetuned" --out models/starter --replace --precision int8 --limit 1000 --version 0.2.0 \
    --card "$recipes/starter.md" \
    --data sentiment="$data/classification/sst2/validation.jsonl" \
    --data nli="$data/pair/nli/validation.jsonl.xz" \
    --data ner="$data/tagging/ewt_ner/validation.jsonl" \
    --data qa="$data/qa/validation.jsonl.xz" \
    --data fill-mask="$work/unseen.jsonl"
