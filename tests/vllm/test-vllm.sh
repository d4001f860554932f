#!/usr/bin/env bash
# What GreenThread relies on in vLLM, asked of a real one: installs it (once), starts it, runs the suites, stops it whatever happens.
# usage: test-vllm.sh
#   GREENTHREAD_VLLM_CACHE   where it is installed (default: .cache/vllm)
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
cache=${GREENTHREAD_VLLM_CACHE:-$root/.cache/vllm}
start_seconds=300
engines=()

# Ends every engine with all its processes, and waits until they are gone.
stop() {
  local engine
  for engine in ${engines[@]+"${engines[@]}"}; do kill -TERM -- "-$engine" 2>/dev/null || true; done
  for engine in ${engines[@]+"${engines[@]}"}; do
    for _ in $(seq 50); do
      kill -0 -- "-$engine" 2>/dev/null || break
      sleep 0.2
    done
    kill -KILL -- "-$engine" 2>/dev/null || true
  done
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

free_port() {
  python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# Starts an engine on a port, in a process group of its own.
start() {
  local port=$1 log=$2
  setsid bash "$here/serve.sh" "$cache" "$port" tiny >"$log" 2>&1 &
  engines+=($!)
}

# Waits until the engine on a port serves; the last lines of its log otherwise.
wait_for() {
  local port=$1 log=$2 engine=$3 second
  for second in $(seq "$start_seconds"); do
    if python3 -c "import urllib.request as u; u.urlopen('http://127.0.0.1:$port/health', timeout=2)" 2>/dev/null; then
      echo "vLLM serves on port $port after $second s" >&2
      return
    fi
    if ! kill -0 "$engine" 2>/dev/null; then
      echo "vLLM ended while it started:" >&2
      tail -n 20 "$log" >&2
      exit 1
    fi
    [ $((second % 10)) -ne 0 ] || echo "vLLM starts ($second s; a minute is usual)" >&2
    sleep 1
  done
  echo "vLLM does not serve after $start_seconds s:" >&2
  tail -n 20 "$log" >&2
  exit 1
}

bash "$here/install.sh" "$cache"
port=$(free_port)
start "$port" "$cache/serve.log"
wait_for "$port" "$cache/serve.log" "${engines[0]}"

cd "$root"

echo "1. vLLM's HTTP API, and that engine-sim answers alike" >&2
GREENTHREAD_VLLM_URL=http://127.0.0.1:$port GREENTHREAD_VLLM_MODEL=tiny \
  cargo test --package greenthread-tests --test engine_contract -- --nocapture

echo "2. control's driver" >&2
GREENTHREAD_ENGINE_URL=http://127.0.0.1:$port GREENTHREAD_ENGINE_MODEL=tiny \
  cargo test --package greenthread-control --test engine_contract -- --nocapture

# Further steps with the real engine go here; `start` and `wait_for` start more engines.
