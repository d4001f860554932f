#!/usr/bin/env bash
# Serves the tiny model of install.sh on 127.0.0.1:PORT under the id MODEL, with development endpoints and load tracking.
# usage: serve.sh FOLDER PORT [MODEL] [further arguments of vllm serve]
set -euo pipefail

folder=${1:?usage: serve.sh FOLDER PORT [MODEL]}
port=${2:?usage: serve.sh FOLDER PORT [MODEL]}
model=${3:-tiny}
shift $(($# < 3 ? $# : 3))

export PATH="$folder/venv/bin:$PATH"
export VLLM_SERVER_DEV_MODE=1 VLLM_CPU_KVCACHE_SPACE=1
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1
export VLLM_CPU_OMP_THREADS_BIND=${VLLM_CPU_OMP_THREADS_BIND:-0-$(($(nproc) > 1 ? 1 : 0))}
# Without --enable-sleep-mode, which the CPU platform refuses; the endpoints exist all the same.
exec vllm serve "$folder/tiny" --served-model-name "$model" --host 127.0.0.1 --port "$port" --dtype float32 \
  --max-model-len 1024 --max-num-seqs 8 --enforce-eager --enable-server-load-tracking "$@"
