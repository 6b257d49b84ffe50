#!/bin/sh
# The eight tables of results.md, one after the other; each may be broken off and started again. Two hours on 2 fast CPU cores.
# usage: docs/results.sh PTB_FOLDER SHORT_YELP_FOLDER
set -eu
methods=language-model,vae:last,annealing,aggressive:last,autoencoder:last,cyclical:last,bn-vae:last
prepare() { [ -d "corpora/$2" ] || study corpus prepare "$1" --out "corpora/$2" ${3:+--from "$3"} ${4:+--vocabulary-size "$4"}; }
table() {  # corpus, name, more settings
  corpus=$1 name=$2
  shift 2
  if [ -d "runs/$name" ]; then study compare --resume "$name"; else
    study compare "corpora/$corpus" --name "$name" --config docs/results.toml --seeds 3 --poolings last,max,mean,max+mean \
      --methods "$methods" "$@"
  fi
}
prepare chitchat chitchat-2000 "" 2000
prepare synthetic-topics synthetic-topics
prepare ptb ptb-4000 "$1" 4000
prepare short-yelp short-yelp-2000 "$2" 2000
for init in default uniform; do
  suffix=$([ $init = default ] || echo -uniform)
  table chitchat-2000 "chitchat$suffix" --set model.init=$init
  table synthetic-topics "topics$suffix" --set model.init=$init --set training.num_sequences=2000
  table ptb-4000 "ptb$suffix" --set model.init=$init
  table short-yelp-2000 "yelp$suffix" --set model.init=$init
done
