#!/usr/bin/env bash
# Makes a private Python environment for the examples in target/python-env; does nothing if it is there and complete.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
env=target/python-env
wanted=examples/requirements.txt
cmp -s "$wanted" "$env/installed.txt" && exit 0
rm -rf "$env"
python3 -m venv "$env"
"$env/bin/python" -m pip install --quiet --disable-pip-version-check -r "$wanted"
cp "$wanted" "$env/installed.txt"
