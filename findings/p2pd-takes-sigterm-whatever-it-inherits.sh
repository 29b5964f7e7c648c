#!/bin/sh
# hivemind 1.1.12 (its p2pd: Go, go-libp2p 0.32). A good guess: a child started with SIGTERM, SIGINT and SIGHUP ignored
# and blocked keeps ignoring them, as C programs do and as `nohup` and `trap '' TERM` rely on.
# Seen: SIGTERM ends p2pd all the same. It asks for the signal (signal.Notify), which undoes both, and exits with 0.
# SIGINT and SIGHUP stay ignored. So a service manager that signals every process of a service (systemd's
# KillMode=control-group) takes the network from a program that wants to say goodbye first, and no exit code tells.
#
#   started with all three ignored and blocked; sent while it serves:
#   SIGHUP lives
#   SIGINT lives
#   SIGTERM ended with 0
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip download -q --no-deps --only-binary :all: -d "$folder" hivemind==1.1.12
python3 -m zipfile -e "$folder"/hivemind-*.whl "$folder/hivemind"
python3 - "$folder" <<'PYTHON'
import os
import pathlib
import signal
import socket
import subprocess
import sys

folder = pathlib.Path(sys.argv[1])
program = folder / "hivemind" / "hivemind" / "hivemind_cli" / "p2pd"
program.chmod(0o755)
SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


def ignore():
    os.setsid()
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


print("started with all three ignored and blocked; sent while it serves:")
found = {}
for number in SIGNALS:
    command = [program, f"-listen=/unix{folder}/{number.name}", "-hostAddrs=/ip4/127.0.0.1/tcp/0"]
    daemon = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=ignore)
    while not daemon.stdout.readline().startswith("Peer Addrs"):
        assert daemon.poll() is None
    try:  # it ignores SIGINT only once it serves: when it answers on its socket
        with socket.socket(socket.AF_UNIX) as asking:
            asking.connect(f"{folder}/{number.name}")
            asking.sendall(b"\x02\x08\x00")  # Request{IDENTIFY}
            assert asking.recv(1)
        daemon.send_signal(number)
        found[number.name] = f"ended with {daemon.wait(3)}"
    except subprocess.TimeoutExpired:
        found[number.name] = "lives"
    finally:
        daemon.kill()
        daemon.wait()
        daemon.stdout.close()
    print(number.name, found[number.name])
assert found == {"SIGHUP": "lives", "SIGINT": "lives", "SIGTERM": "ended with 0"}, "the behaviour changed"
PYTHON
