#!/bin/sh
# Rebuild the starter bundle: base encoder → more pretraining → seven heads → taggers of documents → int8 bundle.
#   training/recipes/starter.sh DATA BASE [WORK]     (eight hours on two cores; the same command resumes it)
set -eu
data=$1
base=$2
work=${3:-build/starter}
recipes=$(dirname "$0")
mkdir -p "$work"
work=$(realpath "$work")

# ---- continued pretraining
[ -e "$work/corpus" ] || python -m training corpus "$data/pretrain/wikipedia.jsonl.xz" \
    --tokenizer "$base" --out "$work/corpus" --limit 8000 --held-out 0.01
xz -dc "$data/pretrain/wikipedia.jsonl.xz" | tail -n 100 > "$work/unseen.jsonl" # not among the first 8,000, which are the corpus
python -m training pretrain "$recipes/continue.toml" --out "$work/pretrained" \
    --set corpus="$work/corpus" --set base="$base"

# ---- more data for ner: text labeled by the average of four models that were trained for ner only
# The head has four of the six types of WNUT-17: persons, locations and two kinds of organizations.
cat "$data"/tagging/wnut17/train.jsonl "$data"/tagging/wnut17/validation.jsonl | sed -E \
    's/-person"/-PER"/g; s/-location"/-LOC"/g; s/-(corporation|group)"/-ORG"/g; s/"[BI]-(product|creative-work)"/"O"/g' \
    > "$work/wnut17.jsonl"
gold="\"tagging/ewt_ner/train.jsonl.xz\", \"$work/wnut17.jsonl\""
for seed in 1 2 3 4; do
    python -m training finetune "$recipes/starter_ner.toml" --out "$work/ner$seed" \
        --set base="$base" --set data="$data" --set seed=$seed --set "heads.ner.train=[$gold]"
done
xz -dc "$data/pair/nli/train.jsonl.xz" | awk -F'"text_b"' '!seen[$1]++' | sed 's/"text_a"/"text"/' > "$work/premises.jsonl"
xz -dc "$data/classification/goemotions/train.jsonl.xz" | grep -vE '\[(NAME|RELIGION)\]' > "$work/comments.jsonl"
xz -dc "$data/pretrain/wikipedia.jsonl.xz" | awk 'NR % 60 == 0' > "$work/articles.jsonl"
label() { # FILE LIMIT OUT [OPTION…]: the first LIMIT texts of a file
    file=$1 limit=$2 out=$3
    shift 3
    [ -e "$work/$out" ] || python -m training label "$work/ner1" "$work/ner2" "$work/ner3" "$work/ner4" --head ner \
        --data "$work/$file" --limit "$limit" --sure 0.6 --out "$work/$out" "$@"
}
label premises.jsonl 12000 premises.ner.jsonl
label comments.jsonl 8000 comments.ner.jsonl
label articles.jsonl 8000 articles.ner.jsonl --sentences en

# ---- all heads, then only the classifier of ner, on text that the encoder did not learn from
python -m training finetune "$recipes/starter.toml" --out "$work/together" \
    --set base="$work/pretrained" --set corpus="$work/corpus" --set data="$data" \
    --set "heads.ner.train=[$gold, \"$work/premises.ner.jsonl\"]"
python -m training finetune "$recipes/starter_ner_head.toml" --out "$work/finetuned" \
    --set base="$work/together" --set data="$data" \
    --set "heads.ner.train=[\"$work/comments.ner.jsonl\", \"$work/articles.ner.jsonl\"]"

# ---- last: taggers learn documents and all pieces of a word, qa learns questions without an answer
python training/recipes/lists.py "$data/tagging/ewt_ner/train_documents.jsonl.xz" "$work/lists.jsonl"
files=""
for name in wnut17 lists premises.ner comments.ner articles.ner; do files="$files, \"$work/$name.jsonl\""; done
python -m training finetune "$recipes/starter_documents.toml" --out "$work/documents" \
    --set base="$work/finetuned" --set corpus="$work/corpus" --set data="$data" \
    --set "heads.ner.train=[\"tagging/ewt_ner/train.jsonl.xz\", \"tagging/ewt_ner/train_documents.jsonl.xz\"$files]"

# ---- the bundle
python -m training export "$work/documents" --out models/starter --replace --precision int8 --version 0.4.0 \
    --card "$recipes/starter.md" \
    --data sentiment="$data/classification/sst2/validation.jsonl" \
    --data nli="$data/pair/nli/validation.jsonl.xz" \
    --data ner="$data/tagging/ewt_ner/validation_text.jsonl" \
    --data ner="$data/tagging/ewt_ner/validation_documents.jsonl" \
    --data pos="$data/tagging/ewt_pos/validation.jsonl" \
    --data qa="$data/qa/validation.jsonl.xz" --data qa="$data/qa/no_answer_validation.jsonl" \
    --data fill-mask="$work/unseen.jsonl"
