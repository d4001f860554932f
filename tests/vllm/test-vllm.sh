#!/usr/bin/env bash
# What GreenThread relies on in vLLM, asked of a real one: installs it (once), starts it, runs the suites, stops it whatever happens.
# usage: test-vllm.sh PYTHON     one with tests/e2e/requirements.txt; `make test-vllm` has it, builds what is tested, and names it in
#                                ENVOY, GREENTHREAD_BINARIES and GREENTHREAD_MODULE
#   GREENTHREAD_VLLM_CACHE       where vLLM is installed (default: .cache/vllm)
set -euo pipefail

python=$(realpath -s "${1:?usage: test-vllm.sh PYTHON}")
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
cache=$(realpath -m "${GREENTHREAD_VLLM_CACHE:-$root/.cache/vllm}")
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

began=$SECONDS
step() {
  echo "$1 ($((SECONDS - began)) s)" >&2
}

step "1. vLLM is installed in $cache, unless it is there"
bash "$here/install.sh" "$cache"
step "2. vLLM starts"
port=$(free_port)
start "$port" "$cache/serve.log"
wait_for "$port" "$cache/serve.log" "${engines[0]}"
export GREENTHREAD_VLLM_DIR=$cache GREENTHREAD_VLLM_URL=http://127.0.0.1:$port GREENTHREAD_VLLM_MODEL=tiny
cd "$root"

step "3. its HTTP API, raw and through control's driver"
cargo test --locked --quiet --package greenthread-tests --test engine_contract vllm_keeps_the_contract -- --nocapture

step "4. the whole path: two more of them take turns behind Envoy, and this one is attached to"
"$python" -m pytest -p no:cacheprovider -n 0 -s --durations=0 tests/e2e/test_vllm.py
step "all of it passed"
