"""Why exchanges take long or fail: the advice follows the cause."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from helpers.statuses import met

from p2p_elastic.health import signals
from p2p_elastic.health.causes import (
    LOAD_BUSY,
    Ended,
    Timing,
    advice,
    advice_on_failures,
    advice_on_silence,
    on_one_machine,
)
from p2p_elastic.peers.transport.identity import Identity
from p2p_elastic.protocol.outcome import Outcome

OK, LATE, GONE, HALF = Outcome.COMPLETED, Outcome.TIMEOUT, Outcome.UNREACHABLE, Outcome.HALF
BUSY = LOAD_BUSY + 1.0
LOOPBACK, OURS = "/ip4/127.0.0.1/tcp/1", "/ip4/192.168.1.7/tcp/1"
NETWORK = "faster network"
RELAY, PEER = (Identity(Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32)).peer for n in (1, 2))


@pytest.mark.parametrize(
    ("timing", "cause", "word"),
    [
        (Timing(), None, "see whether"),
        (Timing(load=1.0), None, "see whether"),
        (Timing(BUSY), "machine", "CPU is overloaded"),
        (Timing(BUSY, 0.1, 9.0), "machine", "CPU is overloaded"),  # then the network seems slow, too
        (Timing(1.0, 9.0, 0.1), "partners", "keeps them busy"),
        (Timing(1.0, 0.1, 9.0), "link", NETWORK),
        (Timing(None, 0.1, 9.0), "link", NETWORK),
        (Timing(1.0, 0.1, 9.0, True), "machine", "no network"),
        (Timing(1.0, None, None, True), "machine", "no network"),
        (Timing(1.0, 9.0, 0.1, True), "partners", "keeps them busy"),
    ],
)
def test_the_advice_follows_what_takes_the_time(timing: Timing, cause: str | None, word: str) -> None:
    assert timing.cause == cause
    assert word in advice(timing)
    assert (NETWORK in advice(timing)) == (cause == "link")


@pytest.mark.parametrize("timing", [Timing(BUSY, 0.1, 9.0), Timing(1.0, 0.1, 9.0, True), Timing(1.0, 9.0, 0.1)])
def test_no_signal_blames_the_network_for_a_busy_machine_or_partner(timing: Timing) -> None:
    late = [met("B", LATE), met("C", LATE), *[met("B", OK)] * 4]
    found = [
        signals.staleness([99, 99, 99], 1.0, timing),
        signals.link(20e3, timing),
        signals.deadlines(late * 3, timing),
        signals.exchanges([met("B", LATE), met("C", LATE)], timing),
    ]
    for signal in found:
        assert signal is not None
        assert NETWORK not in signal.text


def test_a_thin_link_is_still_told_so() -> None:
    link = signals.link(20e3, Timing(0.9, 0.1, 9.0))
    assert link is not None
    assert NETWORK in link.text


@pytest.mark.parametrize(
    ("records", "timing", "word"),
    [
        ([met("B", LATE), met("C", OK)], Timing(1.0), "whether B hang"),
        ([met("B", LATE), met("C", OK)], Timing(BUSY), "CPU is overloaded"),
        ([met("B", LATE), met("B", OK)], Timing(1.0), "network of this machine"),
        ([met("B", LATE), met("C", LATE)], Timing(1.0, one_machine=True), "no network"),
    ],
)
def test_silence_is_laid_to_who_is_silent(records: list[Ended], timing: Timing, word: str) -> None:
    assert word in advice_on_silence(records, timing)


@pytest.mark.parametrize(
    ("outcomes", "load", "words"),
    [
        ((GONE,), BUSY, ["firewall"]),
        ((LATE,), 1.0, ["overloaded, or whether the network"]),
        ((LATE,), BUSY, ["this machine's CPU is overloaded"]),
        ((HALF, GONE), None, ["firewall", "logs of both ends"]),
    ],
)
def test_each_kind_of_failure_has_its_own_advice(outcomes: tuple[Outcome, ...], load: float, words: list[str]) -> None:
    said = advice_on_failures(outcomes, load)
    assert [word in said for word in words] == [True] * len(words)
    assert said.count("; ") >= len(words) - 1


@pytest.mark.parametrize(
    ("own", "others", "here"),
    [
        ([LOOPBACK], [[LOOPBACK]], True),
        ([OURS, LOOPBACK], [["/ip4/192.168.1.7/tcp/2", LOOPBACK], [LOOPBACK]], True),
        ([OURS, LOOPBACK], [["/ip4/192.168.1.8/tcp/2", LOOPBACK]], False),
        ([OURS], [[OURS], ["/ip4/192.168.1.8/tcp/2"]], False),
        ([OURS, LOOPBACK], [["/ip4/192.168.1.8/tcp/2", OURS]], False),
        (["/ip4/8.8.8.8/tcp/1"], [["/ip4/8.8.8.8/tcp/2"]], False),  # behind one router
        ([OURS], [["/dns4/peer.example/tcp/1", OURS]], False),
        ([OURS], [[f"{OURS}/p2p/{RELAY}/p2p-circuit/p2p/{PEER}"]], False),
        ([OURS], [[f"{OURS}/p2p/{RELAY}/p2p-circuit/p2p/{PEER}", OURS]], True),
        ([OURS], [[OURS, "/warp/9"]], False),
        ([OURS], [[OURS, "/ip4/192.168.1.8/tcp/8765/http"]], True),  # of a page, which nobody dials
        ([OURS], [[]], False),
        ([OURS], [], False),
        ([], [["a", "/ip4"]], False),
    ],
)
def test_partners_on_this_machine_are_known_by_their_addresses(
    own: list[str], others: list[list[str]], here: bool
) -> None:
    assert on_one_machine(own, others) is here
