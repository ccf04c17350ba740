#!/bin/sh
# Rebuild the starter bundle: base encoder → continued pretraining → seven heads on one encoder → int8 bundle.
#   training/recipes/starter.sh DATA BASE [WORK]     (seven hours on two cores; the same command again goes on)
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
# WNUT-17 has six types: persons, locations and two kinds of organisation are those of the head, the rest is none of them
cat "$data"/tagging/wnut17/train.jsonl "$data"/tagging/wnut17/validation.jsonl | sed -E \
    's/-person"/-PER"/g; s/-location"/-LOC"/g; s/-(corporation|group)"/-ORG"/g; s/"[BI]-(product|creative-work)"/"O"/g' \
    > "$work/wnut17.jsonl"
python -m training finetune "$recipes/starter.toml" --out "$work/finetuned" \
    --set base="$work/pretrained" --set corpus="$work/corpus" --set data="$data" \
    --set "heads.ner.train=[\"tagging/ewt_ner/train.jsonl.xz\", \"$(realpath "$work")/wnut17.jsonl\"]"
python -m training export "$work/finetuned" --out models/starter --replace --precision int8 --limit 1000 --version 0.3.0 \
    --card "$recipes/starter.md" \
    --data sentiment="$data/classification/sst2/validation.jsonl" \
    --data nli="$data/pair/nli/validation.jsonl.xz" \
    --data ner="$data/tagging/ewt_ner/validation.jsonl" \
    --data pos="$data/tagging/ewt_pos/validation.jsonl" \
    --data qa="$data/qa/validation.jsonl.xz" \
    --data fill-mask="$work/unseen.jsonl"
