#!/usr/bin/env bash
# Runs a command with an engine-sim of its own: GREENTHREAD_ENGINE_URL and GREENTHREAD_ENGINE_MODEL name it.
# usage: with-engine-sim.sh COMMAND [ARGUMENT…]
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
: "${1:?usage: with-engine-sim.sh COMMAND [ARGUMENT…]}"
cargo build --quiet --manifest-path "$root/Cargo.toml" --package greenthread-tests --bin engine-sim
program=${CARGO_TARGET_DIR:-$root/target}/debug/engine-sim

# It says on its first line where it serves; the pipe ends when it does.
coproc engine { VLLM_SERVER_DEV_MODE=1 exec "$program" --port 0 --model tiny --cold-start 0s --token-time 4ms --max-model-len 1024 \
  --enable-server-load-tracking 2>/dev/null; }
# shellcheck disable=SC2154 # `coproc engine` sets it
process=$engine_PID
trap 'kill "$process" 2>/dev/null || true' EXIT
read -r line <&"${engine[0]}" || { echo "with-engine-sim.sh: engine-sim does not start" >&2; exit 1; }
GREENTHREAD_ENGINE_URL=${line##* } GREENTHREAD_ENGINE_MODEL=tiny "$@"
