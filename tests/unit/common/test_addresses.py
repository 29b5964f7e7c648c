"""Addresses of peers: whatever is read is a value or a ConfigError; and names are asked for the family named."""

from __future__ import annotations

import asyncio
import base64
import socket
from collections.abc import Mapping

import base58
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from p2p_elastic.common.addresses import (
    CHARACTERS_MAX,
    PROTOCOLS,
    PeerAddress,
    announced,
    host_of,
    is_loopback,
    listening_host,
    parse_address,
    read_address,
    usable,
)
from p2p_elastic.errors import ConfigError, PartnerUnreachable
from p2p_elastic.peers.direct.connections import NoConnections
from p2p_elastic.peers.discovery.explain_address import explain
from p2p_elastic.peers.transport.identity import Identity
from p2p_elastic.peers.transport.libp2p import Libp2pHost, Libp2pTransport
from p2p_elastic.peers.transport.probing import Probe, probe
from p2p_elastic.protocol.messages import Address
from p2p_elastic.protocol.records import PeerRecord

OURS, THEIRS = (Identity(Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32)) for n in (1, 2))  # parameters of tests
PEER, RELAY = OURS.peer, THEIRS.peer
CID = b"\x01\x72" + OURS.peer_bytes
BASE32 = "b" + base64.b32encode(CID).decode().lower().rstrip("=")
BASE58 = "z" + base58.b58encode(CID).decode()
SHA256 = "QmcgpsyWgH8Y8ajJz1Cu72KnS5uo2Aa2LpzU7kinSupNKC"
PLAIN = "/ip4/192.168.1.7/tcp/31330"


def base36(value: bytes) -> str:
    number, digits = int.from_bytes(value, "big"), ""
    while number:
        number, digit = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return "k" + digits


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_address(text)
    assert caught.value.key == "initial-peer"
    return str(caught.value)


# ---------------------------------------------------------------- what is read


@pytest.mark.parametrize("protocol", ["p2p", "ipfs"])
@pytest.mark.parametrize("peer", [PEER, BASE32, base36(CID), BASE58])
def test_every_spelling_of_a_peer_is_the_same_address(protocol: str, peer: str) -> None:
    address = parse_address(f"{PLAIN}/{protocol}/{peer}")
    assert (str(address), address.peer, address.where) == (f"{PLAIN}/p2p/{PEER}", PEER, PLAIN)


@pytest.mark.parametrize(
    ("where", "normal"),
    [
        (PLAIN, PLAIN),
        ("/ip4/192.168.1.7/tcp/00080", "/ip4/192.168.1.7/tcp/80"),
        ("/ip6/2001:DB8:0::1/tcp/1", "/ip6/2001:db8::1/tcp/1"),
        ("/dns/Peer.Example/tcp/65535", "/dns/peer.example/tcp/65535"),
        ("/dns4/büro.example/tcp/1/ws", "/dns4/xn--bro-hoa.example/tcp/1/ws"),
        ("/dns6/under_score/tcp/1/wss", "/dns6/under_score/tcp/1/wss"),
        ("/dns4/a/tcp/443/tls/ws", "/dns4/a/tcp/443/tls/ws"),
        ("/ip4/1.2.3.4/udp/1/quic-v1", "/ip4/1.2.3.4/udp/1/quic-v1"),
        ("/dnsaddr/peers.example", "/dnsaddr/peers.example"),
        (f"{PLAIN}/ipfs/{RELAY}/p2p-circuit", f"{PLAIN}/p2p/{RELAY}/p2p-circuit"),
    ],
)
def test_what_can_be_dialled_is_read_and_spelled_in_one_way(where: str, normal: str) -> None:
    assert str(parse_address(f"{where}/p2p/{PEER}/")) == f"{normal}/p2p/{PEER}"
    assert announced(where, PEER) == announced(f"{where}/p2p/{PEER}", PEER) == normal


def test_the_bytes_are_those_of_the_specification() -> None:
    ports = bytes.fromhex("04c0a80107" + "067a62")
    relay = bytes.fromhex("a503") + b"\x26" + THEIRS.peer_bytes + bytes.fromhex("a202")
    assert read_address(PLAIN, "x").packed == ports
    assert read_address(f"{PLAIN}/p2p/{RELAY}/p2p-circuit/p2p/{PEER}", "x").packed == ports + relay
    assert read_address("/dns4/a.b/udp/1/quic-v1", "x").packed == bytes.fromhex("3603612e62" + "91020001" + "cd03")


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("", "must begin with /"),
        ("192.168.1.7:31330", "must begin with /"),
        ("/", "cannot be dialled here"),
        (PLAIN, "incomplete"),
        (f"/p2p/{PEER}", "incomplete"),
        (f"/ip4/1.2.3.4/p2p/{PEER}", "port and peer id included"),
        (f"/ip4/1.2.3.4/udp/1/p2p/{PEER}", "incomplete"),
        (f"/p2p-circuit/p2p/{PEER}", "incomplete"),
        (f"{PLAIN}/p2p-circuit/p2p/{PEER}", "incomplete"),
        (f"{PLAIN}/p2p/{RELAY}/p2p-circuit", "incomplete"),  # which peer behind it?
        (f"{PLAIN}/p2p/{PEER}/p2p/{PEER}", "incomplete"),
        (f"/ip4/1.2.3.4/udp/1/quic/p2p/{PEER}", "'quic' cannot be dialled here; what can: an IP address or a name"),
        (f"/unix/tmp/x/p2p/{PEER}", "'unix' cannot be dialled"),
        (f"/ip6zone/eth0/ip6/fe80::1/tcp/1/p2p/{PEER}", "'ip6zone' cannot be dialled"),
        (f"/dns4/a/tcp/443/tls/sni/a/ws/p2p/{PEER}", "'sni' cannot be dialled"),
        (f"{PLAIN}/http/p2p/{PEER}", "'http' cannot be dialled"),
        (f"/onion3/{'a' * 56}:80/p2p/{PEER}", "'onion3' cannot be dialled"),
        (f"/ip4/1.2.3.4/udp/1/quic-v1/webtransport/certhash/uEi/p2p/{PEER}", "'webtransport' cannot be dialled"),
        (f"/ip4/1.2.3.4/udp/1/webrtc-direct/p2p/{PEER}", "'webrtc-direct' cannot be dialled"),
        (f"/ip4//tcp/1/p2p/{PEER}", "/ip4/"),
        (f"/ip4/1.2.3/tcp/1/p2p/{PEER}", "/ip4/1.2.3: Expected 4 octets"),
        (f"/ip4/0.0.0.0/tcp/1/p2p/{PEER}", "every address of a machine"),
        (f"/ip6/fe80::1%eth0/tcp/1/p2p/{PEER}", "a zone cannot be dialled"),
        (f"/ip4/1.2.3.4/tcp/0/p2p/{PEER}", "a port from 1 to 65535"),
        (f"/ip4/1.2.3.4/tcp/65536/p2p/{PEER}", "a port from 1 to 65535"),
        (f"/ip4/1.2.3.4/tcp/1_0/p2p/{PEER}", "a port from 1 to 65535"),
        (f"/ip4/1.2.3.4/tcp/\u0661/p2p/{PEER}", "a port from 1 to 65535"),
        (f"/dns4/a b/tcp/1/p2p/{PEER}", "no host name"),
        (f"/dns4/a..b/tcp/1/p2p/{PEER}", "no host name"),
        (f"/dns4/{'a' * 64}/tcp/1/p2p/{PEER}", "no host name"),
        (f"{PLAIN}/p2p/{PEER[:-1]}", "no peer id: copy it whole"),
        (f"{PLAIN}/p2p/{PEER[:-1]}0", "Invalid character"),
        (f"{PLAIN}/p2p/nobody", "no peer id"),
        (f"{PLAIN}/p2p", "no peer id"),
        (f"{PLAIN}/p2p/k{BASE32}", "something else than a peer"),
        (f"{PLAIN}/p2p/{'1' * 60}", "no peer id"),
        ("/dns4/" + "a." * CHARACTERS_MAX, "at most 200 characters"),
        (f"/dns4/{'ü.' * 25}/tcp/1/p2p/{PEER}", "at most 200 characters"),  # each is xn--tda
    ],
)
def test_what_cannot_be_dialled_is_refused_with_the_reason(address: str, said: str) -> None:
    assert said in refused(address)


ANY = st.text(max_size=12)
VALUES = st.one_of(
    ANY,
    st.sampled_from(["", "0", "1", "4001", "65536", "-1", "127.0.0.1", "::1", "fe80::1%eth0", "a.example", "eth0"]),
    st.sampled_from(
        [PEER, RELAY, SHA256, BASE32, BASE58, base36(CID), PEER[:-1], PEER + "1", "Qm", "b", "z", "k", "12"]
    ),
    st.sampled_from(["é" * 80, "x" * 300, "\x00", "\u202e", "\ud800", "%2f", "..", " "]),
)
NAMES = st.sampled_from(
    [
        *(*PROTOCOLS, "ipfs", "ip6zone", "quic", "sni", "http", "https", "unix", "onion", "onion3", "webtransport"),
        *("certhash", "webrtc-direct", "webrtc", "utp", "sctp", "memory", "garlic64", "P2P", ""),
    ]
)
WORDS = st.lists(st.one_of(NAMES, VALUES), max_size=9).map(lambda words: "/" + "/".join(words))
HOSTS = st.one_of(
    *(st.tuples(st.just(n), VALUES) for n in ("dns", "dns4", "dns6")),
    st.ip_addresses(v=4).map(lambda ip: ("ip4", str(ip))),
    st.ip_addresses(v=6).map(lambda ip: ("ip6", str(ip))),
)
SHAPED = st.builds(
    lambda host, port, more, relay, peer: f"/{host[0]}/{host[1]}/tcp/{port}{more}{relay}/p2p/{peer}",
    HOSTS,
    st.integers(-1, 70_000),
    st.sampled_from(["", "/ws", "/wss", "/tls/ws", "/tls", "/http"]),
    st.sampled_from(["", f"/p2p/{RELAY}/p2p-circuit", "/p2p-circuit"]),
    VALUES,
)


@given(st.one_of(WORDS, SHAPED, st.text(max_size=300)))
@example(f"{PLAIN}/ipfs/{PEER}")
@example("/p2p")
@example("/dns4/\ud800/tcp/1/p2p/" + PEER)
def test_any_text_is_a_value_or_a_config_error(text: str) -> None:
    for read in (parse_address, lambda text: read_address(text, "announce"), lambda text: announced(text, PEER)):
        try:
            found = read(text)
        except ConfigError as error:
            assert error.key in ("initial-peer", "announce")
            assert len(error.allowed) < 1000
            continue
        if isinstance(found, PeerAddress):
            assert read_address(str(found), "again") == found
            assert found.packed
            assert len(str(found)) <= CHARACTERS_MAX
            assert str(found).isascii()
    for relayed in (True, False):
        assert all(address.peer == PEER for address in usable(PEER, (text,), relayed=relayed))


def test_an_address_that_is_read_fits_into_a_record() -> None:
    name = ".".join(["a" * 60] * 2) + "."
    longest = f"/dns4/{name}{'b' * (CHARACTERS_MAX - len(f'/dns4/{name}/tcp/4001/p2p/{PEER}'))}/tcp/4001/p2p/{PEER}"
    assert len(longest) == CHARACTERS_MAX
    assert TypeAdapter(Address).validate_python(str(parse_address(longest))) == longest


def test_of_a_strangers_addresses_those_that_lead_to_it_are_kept() -> None:
    given_ = (PLAIN, f"{PLAIN}/p2p/{PEER}", f"{PLAIN}/ipfs/{RELAY}", "/unix/x", "/ip4/1.2.3.4/tcp/x", "")
    assert [str(address) for address in usable(PEER, given_)] == [f"{PLAIN}/p2p/{PEER}"] * 2


def test_an_announced_address_leads_to_us() -> None:
    with pytest.raises(ConfigError, match=f"announce: got .*it names another peer; this one is {PEER}"):
        announced(f"{PLAIN}/p2p/{RELAY}", PEER)
    with pytest.raises(ConfigError, match="announce: got .*port from 1"):
        announced("/ip4/1.2.3.4/tcp/0", PEER)
    with pytest.raises(ConfigError, match="announce: got .*at most 200"):
        announced(f"/dns4/{'a' * 60}.{'b' * 60}.{'c' * 40}/tcp/1", PEER)


@pytest.mark.parametrize("host", ["localhost", "", "0", "1.2.3", "fe80::1%lo", "[::1]", "é", "\x00", "a" * 300])
def test_a_host_to_listen_on_is_an_ip_address(host: str) -> None:
    with pytest.raises(ConfigError, match="an IP address of this machine"):
        listening_host(host)
    assert [listening_host(good) for good in ("0.0.0.0", "0::1")] == ["0.0.0.0", "::1"]


# ---------------------------------------------------------------- who listens there


class Names:
    """A resolver with fixed names."""

    def __init__(self, names: Mapping[str, tuple[str, ...]]) -> None:
        self._names, self.asked = names, set[tuple[str, str]]()

    async def __call__(self, name: str, family: socket.AddressFamily) -> tuple[str, ...]:
        self.asked.add((name, family.name))
        there = self._names.get(name, ())
        wanted = {socket.AF_INET: lambda ip: ":" not in ip, socket.AF_INET6: lambda ip: ":" in ip}
        found = tuple(filter(wanted.get(family, bool), there))
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return found


def probed(address: str, **names: tuple[str, ...]) -> Probe:
    return asyncio.run(probe(read_address(address, "x"), 5.0, Names(names)))


def test_a_name_is_asked_for_the_family_that_the_address_names() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for protocol in ("dns", "dns4"):
            found = probed(f"/{protocol}/both/tcp/{port}", both=("::1", "127.0.0.1"))
            assert (found.problem, found.seconds is None) == (None, False)
            assert "127.0.0.1" in found.hosts
        assert probed(f"/dns4/both/tcp/{port}", both=("::1", "127.0.0.1")).hosts == ("127.0.0.1",)
        assert probed(f"/dns6/both/tcp/{port}", both=("::1", "127.0.0.1")).problem is not None


@pytest.mark.parametrize(
    ("address", "ip", "said"),
    [
        ("/dns6/peer/tcp/1", "127.0.0.1", "peer has no IPv6 address, only IPv4 (127.0.0.1): write /dns4/peer in"),
        ("/dns4/peer/tcp/1", "::1", "peer has no IPv4 address, only IPv6 (::1): write /dns6/peer in"),
    ],
)
def test_a_name_without_the_family_that_the_address_names_is_said_to_have_none(
    address: str, ip: str, said: str
) -> None:
    problem = probed(address, peer=(ip,)).problem or ""
    assert problem.startswith(said)
    assert explain(f"{address}/p2p/{PEER}", problem) == problem
    refused_name = probed(address.replace("peer", "refused"), refused=(ip,)).problem or ""
    assert explain(f"{address}/p2p/{PEER}", refused_name) == refused_name


def test_a_name_that_nobody_knows_and_a_port_where_nobody_listens_are_told_apart() -> None:
    for protocol in ("dns", "dns4", "dns6"):
        address = f"/{protocol}/nowhere/tcp/1"
        assert explain(address, probed(address).problem or "") == "the host name is not known here"
    found = probed("/dns4/peer/tcp/1", peer=("127.0.0.1", "127.0.0.2"))
    assert (found.problem, found.hosts) == ("Connection refused", ("127.0.0.1", "127.0.0.2"))
    assert probed("/ip4/1.2.3.4/udp/1/quic-v1") == Probe()  # no TCP is dialled


def test_p2pd_reads_our_bytes_and_asks_the_relay_that_they_name() -> None:
    async def main() -> str:
        relay, host = (Libp2pHost(identity, "127.0.0.1", 0) for identity in (THEIRS, Identity.generate()))
        try:
            await relay.start()
            await host.start()
            [through] = usable(PEER, [f"{relay.addresses[0]}/p2p-circuit"], relayed=True)
            with pytest.raises(PartnerUnreachable) as caught:
                await host.connect(PEER, [through])
            return str(caught.value)
        finally:
            await host.close()
            await relay.close()

    said = asyncio.run(main())
    assert "NO_RESERVATION" in said or "protocols not supported" in said, said


@pytest.mark.parametrize(
    ("text", "host"),
    [
        (PLAIN, "192.168.1.7"),
        (f"/dns4/A.b/tcp/1/p2p/{PEER}", "a.b"),
        (f"{PLAIN}/p2p/{RELAY}/p2p-circuit", "192.168.1.7"),
        ("/ip4/1.2.3.4/sctp/1", ""),
        ("1.2.3.4", ""),
    ],
)
def test_the_host_is_read_where_the_address_can_be_dialled(text: str, host: str) -> None:
    assert host_of(text) == host
    assert is_loopback(host_of(text)) is False


def test_an_address_behind_a_relay_is_known() -> None:
    assert read_address(f"{PLAIN}/p2p/{RELAY}/p2p-circuit/p2p/{PEER}", "x").relayed
    assert not read_address(f"{PLAIN}/p2p/{PEER}", "x").relayed


def test_a_strangers_bad_addresses_do_not_cost_its_good_ones() -> None:
    async def main() -> None:
        there, here = (Libp2pHost(identity, "127.0.0.1", 0) for identity in (THEIRS, OURS))
        try:
            await there.start()
            await here.start()
            bad = ("/ip4/1.2.3.4/tcp/x", "/unix/x", f"{PLAIN}/p2p/{PEER}", "/warp/9", "/p2p")
            record = PeerRecord(peer=RELAY, run="r", schema_hash="0" * 32, addresses=(*bad, there.addresses[0]))
            await Libp2pTransport(there, NoConnections()).serve(lambda stream: stream.close())
            await (await Libp2pTransport(here, NoConnections()).open(record)).close()
            with pytest.raises(PartnerUnreachable):
                await Libp2pTransport(here, NoConnections()).open(
                    record.model_copy(update={"peer": "not base58: 0OIl"})
                )
        finally:
            await here.close()
            await there.close()

    asyncio.run(main())
