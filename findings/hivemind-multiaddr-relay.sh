#!/bin/sh
# hivemind 1.1.12 (x86-64 Linux): its Multiaddr writes the peer id in /p2p/ID as a CIDv1 (bytes 01 72, then the multihash),
# and the p2pd of the same wheel reads it as a bare multihash. So an address through a relay,
# /ip4/.../tcp/.../p2p/RELAY/p2p-circuit, that went through hivemind's Multiaddr.to_bytes() cannot be dialled, whatever
# listens there; written by the multiaddr specification it is understood. Addresses without a relay do not show it, as
# the peer's own id is cut off first. Seen:
#   as hivemind writes it:        "length greater than remaining number of bytes in buffer"
#   as the specification says:    it dials the relay ("connection refused" here, as nothing listens there)
# Exits 0 while that is so.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip="$folder/venv/bin/pip --quiet --disable-pip-version-check"
$pip install protobuf==7.36.2 base58==2.1.1 varint==1.0.2 netaddr==1.3.0 idna==3.20 py-cid==0.5.0
$pip download --no-deps --dest "$folder" hivemind==1.1.12
"$folder/venv/bin/python" -m zipfile -e "$folder"/hivemind-1.1.12-*.whl "$folder/wheel"
chmod +x "$folder/wheel/hivemind/hivemind_cli/p2pd"
# All of hivemind would need PyTorch: its multiaddr and its protobuf messages stand alone.
mkdir "$folder/alone"
cp -r "$folder/wheel/hivemind/utils/multiaddr" "$folder"/wheel/hivemind/proto/p2pd_pb2.py "$folder/alone"
PYTHONPATH="$folder/alone" "$folder/venv/bin/python" - "$folder" <<'PYTHON'
import pathlib, socket, subprocess, sys, time
import base58, p2pd_pb2, varint
from multiaddr import Multiaddr

folder = pathlib.Path(sys.argv[1])
RELAY = base58.b58encode(bytes.fromhex("002408011220") + b"\x01" * 32).decode()  # ids of Ed25519 keys
TARGET = bytes.fromhex("002408011220") + b"\x02" * 32
through_relay = Multiaddr(f"/ip4/127.0.0.1/tcp/1/p2p/{RELAY}/p2p-circuit")
by_specification = (
    bytes.fromhex("047f000001" "060001" "a503") + b"\x26" + base58.b58decode(RELAY) + bytes.fromhex("a202")
)
command = [folder / "wheel/hivemind/hivemind_cli/p2pd", "-listen", f"/unix{folder}/control", "-hostAddrs", "/ip4/127.0.0.1/tcp/0"]
daemon = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def connect(address: bytes) -> str:
    where = p2pd_pb2.ConnectRequest(peer=TARGET, addrs=[address])
    request = p2pd_pb2.Request(type=p2pd_pb2.Request.CONNECT, connect=where).SerializeToString()
    with socket.socket(socket.AF_UNIX) as control:
        control.settimeout(30)
        control.connect(str(folder / "control"))
        control.sendall(varint.encode(len(request)) + request)
        stream = control.makefile("rb")
        answer = p2pd_pb2.Response.FromString(stream.read(varint.decode_stream(stream)))
    return answer.error.msg


try:
    end = time.monotonic() + 30
    while not (folder / "control").exists():
        assert daemon.poll() is None and time.monotonic() < end, "p2pd does not start"
        time.sleep(0.05)
    as_written, as_specified = connect(through_relay.to_bytes()), connect(by_specification)
finally:
    daemon.kill()
    daemon.wait()
print("as hivemind writes it:    ", as_written)
print("as the specification says:", as_specified)
assert "length greater than remaining number of bytes" in as_written
assert "connection refused" in as_specified
PYTHON
