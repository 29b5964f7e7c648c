"""What we rely on in hivemind: each name and its shape, and what its import must not leave behind."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest

import p2p_elastic.peers
from p2p_elastic.peers.admission.access_list import AccessList
from p2p_elastic.peers.discovery.signed_records import SignedRecords
from p2p_elastic.peers.transport.identity import Identity
from p2p_elastic.peers.transport.libp2p import Libp2pHost
from p2p_elastic.peers.transport.swarm_clock import SwarmClock

pytestmark = pytest.mark.processes

Shape = Callable[[Any], bool]
FILES = ("transport/libp2p.py", *(f"discovery/{name}.py" for name in ("dht_node", "signed_dht", "signed_records")))
hivemind = sys.modules["hivemind"]  # as those two files have imported it


def takes(*args: str, **kwargs: str) -> Shape:
    """It can be called like that; what is given is of no matter."""

    def check(found: Any) -> bool:
        try:
            inspect.signature(found).bind(*args, **kwargs)
        except TypeError:
            return False
        return True

    return check


def awaits(*args: str, **kwargs: str) -> Shape:
    return lambda found: inspect.iscoroutinefunction(found) and takes(*args, **kwargs)(found)


def is_a(kind: type) -> Shape:
    return lambda found: isinstance(found, kind)


def inherits(kind: type) -> Shape:
    return lambda found: isinstance(found, type) and issubclass(found, kind)


def message(*fields: str) -> Shape:
    """A protobuf message with those fields."""
    return lambda found: set(fields) <= set(found.DESCRIPTOR.fields_by_name)


def module(*names: str) -> Shape:
    return lambda found: inspect.ismodule(found) and all(hasattr(found, name) for name in names)


# Names in the package. Those that `peers` imports are all here: a test sees to it.
NAMES: dict[str, Shape] = {
    "p2p.P2P": inherits(object),
    "p2p.P2P.create": awaits(
        host_maddrs="",
        announce_maddrs="",
        identity_path="",
        use_relay="",
        check_if_identity_free="",
        nat_port_map="",
        idle_timeout="",
        startup_timeout="",
    ),
    "p2p.P2P._UNIX_SOCKET_PREFIX": is_a(str),
    "p2p.P2P._terminate": takes("self"),
    "p2p.P2P._make_process_args": lambda found: found("p2pd", b=True)[0] == "p2pd",
    "p2p.P2PContext": takes(handle_name="", local_id="", remote_id=""),
    "p2p.PeerID": inherits(object),
    "p2p.PeerID.from_base58": takes("text"),
    "p2p.PeerID.to_bytes": takes("self"),
    "p2p.p2p_daemon_bindings.utils.P2PDaemonError": inherits(Exception),
    "p2p.p2p_daemon_bindings.utils.raise_if_failed": takes("response"),
    "p2p.p2p_daemon_bindings.utils.read_pbmsg_safe": awaits("reader", "message"),
    "p2p.p2p_daemon_bindings.utils.write_pbmsg": awaits("writer", "message"),
    "proto.p2pd_pb2": module("Response"),
    "proto.p2pd_pb2.Request": message("type", "connect", "streamOpen"),
    "proto.p2pd_pb2.Request.CONNECT": is_a(int),
    "proto.p2pd_pb2.Request.STREAM_OPEN": is_a(int),
    "proto.p2pd_pb2.ConnectRequest": message("peer", "addrs"),
    "proto.p2pd_pb2.StreamOpenRequest": message("peer", "proto"),
    "proto.dht_pb2": module(),
    "proto.dht_pb2.PingRequest": message("peer", "validate"),
    "proto.dht_pb2.PingResponse": message("peer", "dht_time"),
    "proto.dht_pb2.StoreRequest": message("peer"),
    "proto.dht_pb2.StoreResponse": message("store_ok"),
    "proto.dht_pb2.FindRequest": message("peer"),
    "proto.dht_pb2.FindResponse": message("results"),
    "utils.MSGPackSerializer": inherits(object),
    "utils.MSGPackSerializer.loads": takes("data"),
    "utils.ValueWithExpiration": takes("value", "expiration_time"),
    "utils.auth": module("get_dht_time"),
    "utils.timed_storage": module("get_dht_time"),
    "utils.timed_storage.get_dht_time": callable,
    "dht.node": module("get_dht_time"),
    "dht.protocol": module("get_dht_time"),
    "dht.routing": module("get_dht_time"),
    "dht.node.DHTNode": inherits(object),
    "dht.node.DHTNode.create": awaits(
        p2p="",
        record_validator="",
        wait_timeout="",
        cache_refresh_before_expiry="",
        cache_locally="",
        cache_nearest="",
    ),
    "dht.node.DHTNode._call_find_with_blacklist": awaits("self", "peer", "keys"),
    "dht.storage.DictionaryDHTValue": inherits(object),
    "dht.protocol.DHTProtocol": inherits(object),
    **{f"dht.protocol.DHTProtocol.rpc_{n}": awaits("self", "request", "context") for n in ("ping", "store", "find")},
    "dht.protocol.DHTProtocol.call_store": awaits("self", "peer", "keys", "values", "expiration_time"),
    "dht.protocol.DHTProtocol.call_find": awaits("self", "peer", "keys"),
    "dht.protocol.DHTProtocol.update_routing_table": awaits("self", "node_id", "peer_id", responded=""),
    "dht.protocol.DHTProtocol.RESERVED_SUBKEYS": is_a(tuple),
    "dht.routing.DHTID": inherits(int),
    "dht.routing.DHTID.generate": takes(source="key"),
    "dht.routing.DHTID.from_bytes": takes("data"),
    "dht.routing.DHTID.to_bytes": takes("self"),
    "dht.crypto.DHTRecord": takes(key="", subkey="", value="", expiration_time=""),
    "dht.crypto.RecordValidatorBase": inherits(object),
    "dht.crypto.RecordValidatorBase.validate": takes("self", "record"),
}

# What a started P2P has, and a DHTNode on it.
STARTED: dict[str, Shape] = {
    "p2p._child": is_a(asyncio.subprocess.Process),
    "p2p._client.control._read_task": is_a(asyncio.Task),
    "p2p._client.control._write_task": is_a(asyncio.Task),
    "p2p._client.control.daemon_connector.open_connection": awaits(),
    "p2p.get_visible_maddrs": awaits(latest=""),
    "p2p.add_binary_stream_handler": awaits("protocol", "handler"),
    "p2p.shutdown": awaits(),
    "node.node_id.to_bytes": takes(),
    "node.store": awaits(key="", subkey="", value="", expiration_time=""),
    "node.get": awaits("key", latest="", beam_size=""),
    "node.find_nearest_nodes": awaits("keys", k_nearest="", beam_size="", exclude_self=""),
    "node.num_replicas": is_a(int),
    "node.protocol.routing_table.get_nearest_neighbors": takes("key", 5, exclude=""),
    "node.protocol.storage.get": takes("key"),
    "node.shutdown": awaits(),
    "node.blacklist.register_success": takes("peer"),
    "node.blacklist.clear": takes(),
    "node.protocol.node_info": message("node_id"),
    "node.protocol.get_stub": takes("peer"),
    "node.protocol.update_routing_table": awaits("node", "peer", responded=""),
    "node.protocol.routing_table.peer_id_to_uid": is_a(dict),
    "node.protocol.storage.clear": takes(),
    "node.protocol.cache.clear": takes(),
}


def lacking(root: object, needed: dict[str, Shape]) -> list[str]:
    """The names that are not there, or are there in another shape."""
    wrong = []
    for name, shape in needed.items():
        try:
            fits = shape(attrgetter(name)(root))
        except AttributeError:
            fits = False
        if not fits:
            wrong.append(name)
    return wrong


def test_every_name_that_we_rely_on_is_there_in_the_shape_that_we_need() -> None:
    assert lacking(hivemind, NAMES) == [], f"hivemind {version('hivemind')} is not the one that peers/ was written for"


def test_a_daemon_and_a_node_have_what_we_rely_on() -> None:
    class Started:
        """Roots of the names."""

    async def start() -> list[str]:
        host = Libp2pHost(Identity.generate(), "127.0.0.1", 0)
        await host.start()
        try:
            started, clock = Started(), SwarmClock()
            started.p2p = host.p2p  # type: ignore[attr-defined]
            started.node = node = await hivemind.dht.node.DHTNode.create(  # type: ignore[attr-defined]
                p2p=host.p2p, record_validator=SignedRecords(clock, AccessList(Identity.generate(), clock))
            )
            wrong = lacking(started, STARTED)
            await node.shutdown()
            return wrong
        finally:
            await host.close()

    wrong = asyncio.run(start())
    assert wrong == [], f"hivemind {version('hivemind')} is not the one that peers/ was written for"


def test_a_name_that_is_gone_or_takes_something_else_is_named() -> None:
    assert lacking(hivemind, {"p2p.P2P.gone": inherits(object)}) == ["p2p.P2P.gone"]
    assert lacking(hivemind, {"p2p.P2P.create": awaits(another="")}) == ["p2p.P2P.create"]
    assert lacking(hivemind, {"p2p.P2P": message("peer")}) == ["p2p.P2P"]


def test_the_tables_have_every_name_that_is_imported_and_every_private_one() -> None:
    imported, private = set(), set()
    for file in FILES:
        for part in ast.walk(ast.parse((Path(p2p_elastic.peers.__file__).parent / file).read_text())):
            if isinstance(part, ast.ImportFrom) and (part.module or "").startswith("hivemind"):
                within = f"{part.module}.".partition(".")[2]
                imported |= {within + alias.name for alias in part.names}
            elif isinstance(part, ast.Attribute) and re.match("_[^_]", part.attr):
                own = isinstance(part.value, ast.Name) and part.value.id in ("self", "cls")
                private |= set() if own else {part.attr}
    listed = {word for name in (*NAMES, *STARTED) for word in name.split(".")}
    assert len(imported) > 10
    assert imported - NAMES.keys() == set()
    assert "_child" in private
    assert private - listed == set()


def test_its_import_starts_no_further_process_and_leaves_the_start_method_alone() -> None:
    """Python 3.14 starts processes by `forkserver` unless told otherwise; that has locks tracked by a process."""
    program = """
import multiprocessing, os, sys, psutil
multiprocessing.set_start_method("forkserver")
import p2p_elastic.peers.transport.libp2p
assert multiprocessing.get_start_method() == "forkserver"
print([child.cmdline() for child in psutil.Process().children(recursive=True)], flush=True)
os._exit(0)  # as the command line ends
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr, done.returncode) == ("[]", "", 0)
