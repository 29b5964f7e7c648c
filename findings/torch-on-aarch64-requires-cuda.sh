#!/usr/bin/env bash
# torch 2.11.0 and newer on PyPI (seen up to 2.15.0), Linux on aarch64: `pip install torch` installs CUDA.
#
# What one expects: PyPI's wheels for aarch64 are for the CPU, as they were up to 2.10.0, whose CUDA packages have the
# marker platform_machine == "x86_64"; most such machines (Raspberry Pi, Graviton, Ampere) have no NVIDIA GPU.
# Behaviour: from 2.11.0 on the marker is gone. Installed with torchvision, 2.15.0 is 5.65 GB there, 2.10.0 0.69 GB.
# Without CUDA: `torch<2.11`, or --index-url https://download.pytorch.org/whl/cpu.
# `pip install --platform manylinux_2_28_aarch64` on x86-64 does not show it: pip takes the wheel for aarch64, but evaluates
# the markers of its dependencies for its own machine. With torch 2.10.0 it ends with "No matching distribution found for
# nvidia-cuda-nvrtc-cu12", which is not required there. `uv pip install --python-platform` evaluates them for aarch64.
# Output seen on x86-64 (the number of packages for CUDA; only that for aarch64 is checked):
#   torch 2.10.0 requires on aarch64 0, by the markers of this machine 17
#   torch 2.11.0 requires on aarch64 7, by the markers of this machine 7
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet 'pip>=23' packaging
for version in 2.10.0 2.11.0; do  # only the metadata is read
    "$work/venv/bin/python" -m pip install --quiet --dry-run --no-deps --only-binary :all: --platform manylinux_2_28_aarch64 \
        --python-version 3.11 --target "$work/none" --report "$work/$version.json" torch==$version
done
cat >"$work/look.py" <<'PY'
import json
import sys

from packaging.requirements import Requirement

AARCH64 = {"platform_machine": "aarch64", "platform_system": "Linux", "sys_platform": "linux", "python_version": "3.11"}
CUDA = ("nvidia-", "cuda-", "triton")
counts = []
for report in sys.argv[1:]:
    metadata = json.load(open(report))["install"][0]["metadata"]
    required = [Requirement(line) for line in metadata["requires_dist"] if line.startswith(CUDA)]
    there, here = (sum(r.marker.evaluate(environment) for r in required) for environment in (AARCH64, None))
    print(f"torch {metadata['version']} requires on aarch64 {there}, by the markers of this machine {here}")
    counts.append(there)
assert counts == [0, 7], "the requirements changed"
PY
"$work/venv/bin/python" "$work/look.py" "$work"/2.1*.json
