#!/bin/sh
# Removes from a virtual environment what no peer uses: headers, tests, installers, symbols. Usage: trim.sh VENV
set -eu
venv=$1
cd "$venv"/lib/python3*/site-packages
rm -rf pip pip-*.dist-info setuptools setuptools-*.dist-info "$venv"/bin/pip*
rm -rf torch/include torch/share torch/test torch/lib/*.a torch/lib/*test*.so grpc_tools grpcio_tools-*.dist-info
rm -rf scipy scipy.* scipy-*.dist-info # hivemind asks for it, for the averager that no peer uses
find torch/bin -type f ! -name torch_shm_manager -delete
rm -f netaddr/eui/*.txt # the makers of network cards
for package in numpy networkx sympy hivemind netaddr; do
    if [ -d "$package" ]; then find "$package" -type d -name tests -prune -exec rm -rf {} +; fi
done
find . \( -name '*.pyi' -o -name '*.pyx' -o -name '*.pxd' \) -delete
# Few libraries only: those in NAME.libs were moved by auditwheel, and do not load once they are stripped.
if command -v strip >/dev/null; then find torch/lib uvloop -name '*.so' -exec strip --strip-unneeded {} +; fi
# Compiled once for all starts, since the root may be read-only, but only what a peer imports: a tenth of all.
find "$venv" -name __pycache__ -prune -exec rm -rf {} +
"$venv"/bin/python3 -W ignore -c 'import p2p_elastic.cli.main, p2p_elastic.node.join'
