#!/bin/sh
# hivemind 1.1.12 (its p2pd: Go, go-libp2p 0.32). A good guess: `-relay=0 -relayService=0`, which p2pd documents as what
# enables a circuit relay and lets the node serve as one, leaves a node that relays for nobody; so does
# `P2P.create(use_relay=False)`, which sets the first.
# Seen: it serves /libp2p/circuit/relay/0.2.0/hop all the same. The flag can only switch on what the default
# configuration has on already. A configuration file that says so (-f, {"Relay": {"Enabled": false}}) is heard.
#
#   -relay=0 -relayService=0           serves a relay
#   the same, and the file             protocols not supported
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip="$folder/venv/bin/pip --quiet --disable-pip-version-check"
$pip install protobuf==7.36.2
$pip download --no-deps --dest "$folder" --only-binary :all: hivemind==1.1.12
"$folder/venv/bin/python" -m zipfile -e "$folder"/hivemind-1.1.12-*.whl "$folder/wheel"
chmod +x "$folder/wheel/hivemind/hivemind_cli/p2pd"
mkdir "$folder/alone"  # all of hivemind would need PyTorch: its protobuf messages stand alone
cp "$folder"/wheel/hivemind/proto/p2pd_pb2.py "$folder/alone"
PYTHONPATH="$folder/alone" "$folder/venv/bin/python" - "$folder" <<'PYTHON'
import pathlib
import socket
import subprocess
import sys

import p2pd_pb2
from google.protobuf.internal.decoder import _DecodeVarint
from google.protobuf.internal.encoder import _VarintBytes

folder = pathlib.Path(sys.argv[1])
HOP = "/libp2p/circuit/relay/0.2.0/hop"
Request = p2pd_pb2.Request


class Daemon:
    def __init__(self, name, *flags):
        self.control = f"{folder}/{name}"
        command = [folder / "wheel/hivemind/hivemind_cli/p2pd", f"-listen=/unix{self.control}", "-hostAddrs=/ip4/127.0.0.1/tcp/0"]
        self.process = subprocess.Popen([*command, *flags], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        while not self.process.stdout.readline().startswith("Peer Addrs"):
            assert self.process.poll() is None

    def ask(self, **request):
        with socket.socket(socket.AF_UNIX) as asking:
            asking.connect(self.control)
            packed = Request(**request).SerializeToString()
            asking.sendall(_VarintBytes(len(packed)) + packed)
            length, at, data = None, 0, b""
            while length is None or len(data) < at + length:
                data += asking.recv(4096)
                if length is None:
                    length, at = _DecodeVarint(data, 0)
            return p2pd_pb2.Response.FromString(data[at : at + length])

    def end(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


(folder / "no-relay.json").write_text('{"Relay": {"Enabled": false}}')
flags = ("-relay=0", "-relayService=0")
found = []
for name, given in (("flags", flags), ("file", (*flags, f"-f={folder}/no-relay.json"))):
    node, stranger = Daemon(name, *given), Daemon(f"{name}-stranger")
    try:
        me = node.ask(type=Request.IDENTIFY).identify
        where = p2pd_pb2.ConnectRequest(peer=me.id, addrs=list(me.addrs))
        assert stranger.ask(type=Request.CONNECT, connect=where).type == p2pd_pb2.Response.OK
        opened = stranger.ask(type=Request.STREAM_OPEN, streamOpen=p2pd_pb2.StreamOpenRequest(peer=me.id, proto=[HOP]))
        found.append(opened.error.msg or "serves a relay")
    finally:
        node.end()
        stranger.end()
    print(" ".join(given), "->", found[-1])
assert found[0] == "serves a relay" and "protocols not supported" in found[1], "the behaviour changed"
PYTHON
