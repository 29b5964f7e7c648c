"""Two peers of a private run show each other their tickets, over a simulated network."""

from __future__ import annotations

import asyncio
import gc
import struct
from collections.abc import Awaitable, Callable

import pytest
from helpers.private_runs import ADDRESSES, DAY, Member, Time, introducing, record_of

from p2p_elastic.errors import NotAdmitted, PartnerUnreachable
from p2p_elastic.peers.admission.access_list import ISSUER_SECONDS, TICKET_SECONDS
from p2p_elastic.peers.admission.introductions import SECONDS
from p2p_elastic.peers.transport.everybody import Everybody
from p2p_elastic.peers.transport.identity import Identity
from p2p_elastic.protocol.roles import Role
from p2p_elastic.testing.faults import Event, Verdict
from p2p_elastic.testing.virtual_network import SimulatedNetwork
from p2p_elastic.testing.virtual_time import run_virtual

Scenario = Callable[[SimulatedNetwork, Time, Member], Awaitable[None]]


def played(scenario: Scenario) -> None:
    """With a founder that is served."""

    async def play() -> None:
        network, time = SimulatedNetwork(), Time()
        founder = Member(time)
        await introducing(network, founder)
        await scenario(network, time, founder)

    run_virtual(play())


def test_both_are_let_in_and_the_invite_becomes_a_ticket_of_its_own() -> None:
    async def scenario(network: SimulatedNetwork, time: Time, founder: Member) -> None:
        invited = founder.invites(time)
        introductions = await introducing(network, invited)
        await introductions.ensure(founder.peer)
        assert founder.access.allows(invited.peer, Role.TRAINER)
        assert invited.access.allows(founder.peer, Role.ISSUER)
        assert invited.access.status().seconds_left == TICKET_SECONDS  # type: ignore[union-attr]

    played(scenario)


def test_members_meet_without_the_founder_and_once_is_enough() -> None:
    async def scenario(network: SimulatedNetwork, time: Time, founder: Member) -> None:
        a, b = founder.invites(time), founder.invites(time)
        introductions = await introducing(network, a)
        await introducing(network, b)
        opened: list[Event] = []

        def judge(event: Event) -> Verdict:
            opened.extend([event] if event.kind == "open" else [])
            return Verdict()

        network.judge = judge
        for _ in range(3):
            await introductions.ensure(b.peer)
        assert len(opened) == 1
        introductions.forget(b.peer)
        await introductions.ensure(b.peer)
        assert len(opened) == 2
        assert b.access.allows(a.peer, Role.TRAINER)

    played(scenario)


def test_a_stranger_hears_why_and_nothing_else() -> None:
    async def scenario(network: SimulatedNetwork, time: Time, founder: Member) -> None:
        others = Member(time).invites(time)  # of another run of that name
        introductions = await introducing(network, others)
        with pytest.raises(NotAdmitted, match="does not let this peer in: a ticket of another run, or forged"):
            await introductions.ensure(founder.peer)
        assert not founder.access.allows(others.peer)
        assert not others.access.allows(founder.peer)

    played(scenario)


def test_a_second_user_of_an_invite_is_told() -> None:
    async def scenario(network: SimulatedNetwork, time: Time, founder: Member) -> None:
        invite = founder.access.invite(Role.TRAINER, DAY, ADDRESSES)
        for member, works in ((Member(time, invite), True), (Member(time, invite), False)):
            introductions = await introducing(network, member)
            if works:
                await introductions.ensure(founder.peer)
            else:
                with pytest.raises(NotAdmitted, match="an invite that another peer used before"):
                    await introductions.ensure(founder.peer)

    played(scenario)


def test_an_open_peer_shows_nothing_and_finds_out_that_a_run_is_private() -> None:
    async def scenario(network: SimulatedNetwork, time: Time, founder: Member) -> None:
        stranger = Identity.generate()
        assert await (await introducing(network, Member(time))).is_private(founder.peer)
        assert not await (await introducing(network, Member(time))).is_private(stranger.peer)
        everybody = Everybody()
        await everybody.ensure(founder.peer)
        assert everybody.access.allows(stranger.peer, Role.ISSUER)

    played(scenario)


def test_revocations_spread_both_ways_at_the_next_look_at_the_members() -> None:
    async def scenario(network: SimulatedNetwork, time: Time, founder: Member) -> None:
        a, b, gone = (founder.invites(time) for _ in range(3))
        of_a, of_b = await introducing(network, a), await introducing(network, b)
        for introductions in (of_a, of_b):
            await introductions.ensure(founder.peer)
        a.admits(gone)
        b.admits(gone)
        founder.admits(gone)
        founder.access.revoke(gone.peer)
        await of_a.keep([record_of(founder.peer, founder.access.revoked_digest)])
        assert not a.access.allows(gone.peer)
        await of_a.keep([record_of(b.peer)])  # that does not know it yet
        assert not b.access.allows(gone.peer)

    played(scenario)


def test_whose_issuer_was_revoked_hears_of_it_when_it_is_refused() -> None:
    async def scenario(network: SimulatedNetwork, time: Time, founder: Member) -> None:
        issuer, member = founder.invites(time, Role.ISSUER), founder.invites(time)
        introductions = await introducing(network, member)
        await introducing(network, issuer)
        await introductions.ensure(issuer.peer)  # which renews the ticket
        founder.admits(issuer)
        founder.access.revoke(issuer.peer)
        with pytest.raises(NotAdmitted, match="does not let this peer in: the ticket was revoked"):
            await introductions.ensure(founder.peer)
        assert not member.access.allows(issuer.peer)
        await introductions.ensure(founder.peer)  # with the founder's own ticket
        assert founder.access.allows(member.peer, Role.TRAINER)

    played(scenario)


def test_a_stranger_is_told_no_list_when_it_is_refused() -> None:
    async def scenario(network: SimulatedNetwork, time: Time, founder: Member) -> None:
        gone, others = founder.invites(time), Member(time).invites(time)
        founder.admits(gone)
        founder.access.revoke(gone.peer)
        sent: list[int] = []

        def judge(event: Event) -> Verdict:
            sent.extend([event.nbytes] if event.source == founder.peer and event.kind == "piece" else [])
            return Verdict()

        network.judge = judge
        with pytest.raises(NotAdmitted):
            await (await introducing(network, others)).ensure(founder.peer)
        assert 0 < sum(sent) < 100

    played(scenario)


def test_nobody_hears_of_an_introduction_that_fails_after_its_last_waiter_gave_up() -> None:
    async def scenario(network: SimulatedNetwork, time: Time, founder: Member) -> None:
        errors: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: errors.append(context))
        introductions = await introducing(network, founder.invites(time))
        network.judge = lambda _event: Verdict("silence", SECONDS)
        waiting = asyncio.ensure_future(introductions.ensure(founder.peer))
        await asyncio.sleep(1.0)
        waiting.cancel()
        await asyncio.sleep(2 * SECONDS)
        gc.collect()
        assert errors == []

    played(scenario)


def test_a_member_that_takes_no_list_is_not_asked_for_ever() -> None:
    async def scenario(network: SimulatedNetwork, time: Time, founder: Member) -> None:
        a = founder.invites(time)
        introductions = await introducing(network, a)
        met: list[Event] = []

        def judge(event: Event) -> Verdict:
            met.extend([event] if event.kind == "open" else [])
            return Verdict()

        await introductions.ensure(founder.peer)
        network.judge = judge
        for _ in range(5):
            await introductions.keep([record_of(founder.peer, "0" * 16)])
        assert len(met) == 1

    played(scenario)


def test_a_ticket_is_renewed_in_time_by_an_issuer_that_is_there() -> None:
    async def scenario(network: SimulatedNetwork, time: Time, founder: Member) -> None:
        issuer, a = founder.invites(time, Role.ISSUER), founder.invites(time)
        of_issuer, of_a = await introducing(network, issuer), await introducing(network, a)
        for introductions in (of_issuer, of_a):
            await introductions.ensure(founder.peer)
        await of_a.ensure(issuer.peer)
        assert issuer.access.status().seconds_left == ISSUER_SECONDS  # type: ignore[union-attr]
        del network.handlers[founder.peer]  # it is away
        time.passes(TICKET_SECONDS - 60)
        await of_a.keep([record_of(issuer.peer)])
        assert a.access.status().seconds_left == TICKET_SECONDS  # type: ignore[union-attr]

    played(scenario)


def test_who_says_nothing_or_too_much_is_given_up() -> None:
    async def scenario(network: SimulatedNetwork, time: Time, founder: Member) -> None:
        a = founder.invites(time)
        introductions = await introducing(network, a)
        silent = network.transport("silent")

        async def nothing(_stream: object) -> None:
            await asyncio.Event().wait()

        await silent.serve(nothing)
        with pytest.raises(PartnerUnreachable, match=f"within {SECONDS:g} s"):
            await introductions.ensure("silent")
        loud = await network.transport("loud").open(record_of(founder.peer))
        await loud.send(struct.pack("!I", 2**31))
        answer = bytearray(5)
        await loud.receive_into(memoryview(answer))
        assert answer[0] == 0  # refused, before there is memory for it
        await loud.close()

    played(scenario)
