#!/usr/bin/env bash
# Installs the wheel into a clean environment, hides every compiler, and runs the demo from an empty folder.
set -euo pipefail
cd "$(dirname "$0")/.."
unset PYTHONPATH  # what lies there is not what the wheel brings

wheel=$(ls dist/smartbft-*-cp311-abi3-*.whl)
[ "$(echo "$wheel" | wc -l)" = 1 ] || { echo "check-wheel: expected one abi3 wheel in dist/, found: $wheel"; exit 1; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --constraint ci/constraints.txt "$wheel"
cp -r ci/smoke.py "$folder/"
cd "$folder"
(
    export PATH="$folder/venv/bin"
    for tool in cc gcc cargo rustc; do
        if command -v "$tool" >/dev/null; then echo "check-wheel: $tool is still on the path"; exit 1; fi
    done
    smartbft version
    python smoke.py
    smartbft demo --seconds 3
)
echo "check-wheel: $wheel works without a compiler"
