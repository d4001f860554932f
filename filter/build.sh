#!/usr/bin/env bash
# Builds the filter for Envoy: OUTDIR/greenthread.wasm and OUTDIR/greenthread.wasm.sha256.
# usage: filter/build.sh [OUTDIR]     (default: <target>/module)
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
target=${CARGO_TARGET_DIR:-$root/target}
out=${1:-$target/module}
triple=wasm32-wasip1

# Callbacks that Envoy may call; every further one costs each request an entry into the VM.
# Without proxy_on_delete the SDK would keep the context of every request for ever.
exports=(
  memory _initialize proxy_abi_version_0_2_1 proxy_on_memory_allocate
  proxy_on_vm_start proxy_on_configure proxy_on_context_create proxy_on_tick
  proxy_on_request_headers proxy_on_request_body proxy_on_log proxy_on_done proxy_on_delete
  proxy_on_grpc_receive proxy_on_grpc_close
)

build=(cargo build --locked --package greenthread-filter --lib --profile module --target "$triple")

has_target() {
  [ -d "$(rustc --print sysroot)/lib/rustlib/$triple" ]
}

# The ordinary way: the target's standard library comes with the toolchain.
build_with_rustup() {
  "${build[@]}" --target-dir "$target/wasm"
  built=$target/wasm/$triple/module/greenthread_filter.wasm
}

# Where no standard library can be downloaded, Debian's rustc-web, rust-web-src, lld and wasi-libc build one. In its own
# target folder: the two compilers would rebuild each other's artefacts.
build_with_debian() {
  local host
  host=$(rustc -vV | sed -n 's/^host: //p')
  if [ ! -d /usr/lib/wasm32-wasi ] || [ ! -x /usr/bin/rustc ]; then
    local install=(apt-get install -y --no-install-recommends rustc-web rust-web-src lld wasi-libc)
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null || ! "${install[@]}"; then
      echo "filter: the target $triple is missing and cannot be installed: run 'rustup target add $triple', or on Debian as root '${install[*]}'" >&2
      exit 1
    fi
  fi
  RUSTC_BOOTSTRAP=1 RUSTC=/usr/bin/rustc RUSTFLAGS="-L /usr/lib/wasm32-wasi" \
    CARGO_TARGET_WASM32_WASIP1_LINKER=$(rustc --print sysroot)/lib/rustlib/$host/bin/rust-lld \
    "${build[@]}" --target-dir "$target/wasm-debian" -Z build-std=std,panic_abort
  built=$target/wasm-debian/$triple/module/greenthread_filter.wasm
}

if has_target || { timeout 30 rustup target add "$triple" && has_target; }; then
  build_with_rustup
else
  build_with_debian
fi

mkdir -p "$out"
cargo run --locked --quiet --package greenthread-filter --bin greenthread-filter-trim -- "$built" "$out/greenthread.wasm.new" "${exports[@]}"
mv "$out/greenthread.wasm.new" "$out/greenthread.wasm"
sha256sum "$out/greenthread.wasm" | cut -d ' ' -f 1 > "$out/greenthread.wasm.sha256"
echo "filter: $out/greenthread.wasm ($(stat -c %s "$out/greenthread.wasm") bytes)"
