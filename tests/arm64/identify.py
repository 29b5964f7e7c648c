"""Starts the p2pd of hivemind's wheel, and asks it for its identity: alone, as PyTorch takes a minute to load here."""

import platform
import socket
import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path

import base58

IDENTIFY = b"\x02\x08\x00"  # the message Request{type: IDENTIFY} after its length, as in p2pd.proto
ED25519_ID = b"\x00\x24\x08\x01\x12\x20"  # how an id that is an Ed25519 key begins; the 32 bytes of the key follow

hivemind = find_spec("hivemind")
assert hivemind is not None and hivemind.submodule_search_locations, "hivemind is not installed"
program = Path(hivemind.submodule_search_locations[0]) / "hivemind_cli" / "p2pd"
with tempfile.TemporaryDirectory() as folder:
    command = [program, f"-listen=/unix{folder}/p2pd", "-hostAddrs=/ip4/127.0.0.1/tcp/0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as daemon:
        assert daemon.stdout is not None
        said = ""
        while "Peer Addrs" not in said:
            line = daemon.stdout.readline()
            assert line, f"p2pd ended: {said}"
            said += line
        with socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(60)
            asking.connect(f"{folder}/p2pd")
            asking.sendall(IDENTIFY)
            answer = asking.recv(1000)
        daemon.terminate()
start = answer.index(ED25519_ID)
peer = base58.b58encode(answer[start : start + len(ED25519_ID) + 32]).decode()
assert f"Peer ID: {peer}" in said, said
print(f"p2pd on {platform.machine()} is {peer}")
