"""Who is let into a private run, for how long, and how that is taken back."""

from __future__ import annotations

import contextlib
import itertools

import pytest
from helpers.private_runs import ADDRESSES, DAY, Member, Time
from hypothesis import given
from hypothesis import strategies as st

from p2p_elastic.errors import ConfigError, NotAdmitted
from p2p_elastic.peers.admission.access_list import ISSUER_SECONDS, TICKET_SECONDS, AccessList, AccessMemory
from p2p_elastic.peers.admission.revocations import ENTRIES_MAX, LISTS_BYTES_MAX, Revocations
from p2p_elastic.peers.admission.tickets import LIFE_SECONDS_MAX, Root, read_chain
from p2p_elastic.peers.transport.identity import Identity
from p2p_elastic.peers.transport.swarm_clock import Reading
from p2p_elastic.protocol.roles import Role


def test_everybody_takes_part_in_an_open_run() -> None:
    access = AccessList(Identity.generate(), Time().clock)
    assert access.allows(Identity.generate().peer, Role.ISSUER)
    assert access.status() is None
    with pytest.raises(ConfigError, match="--admission ticket"):
        access.invite(Role.TRAINER, DAY, ADDRESSES)


def test_a_closed_list_admits_nobody_before_its_run_has_a_name() -> None:
    time, me = Time(), Identity.generate()
    access = AccessList(me, time.clock)
    access.close()
    assert not access.allows(Identity.generate().peer)
    access.enter(Root("lab", me.peer))
    assert access.allows(me.peer, Role.ISSUER)


@pytest.mark.parametrize("role", Role)
def test_a_role_includes_those_before_it(role: Role) -> None:
    time = Time()
    founder = Member(time)
    invited = founder.invites(time, role)
    founder.admits(invited)
    assert [founder.access.allows(invited.peer, r) for r in Role] == [r <= role for r in Role]
    assert [invited.access.allows(invited.peer, r) for r in Role] == [r <= role for r in Role]


def test_two_that_were_invited_let_each_other_in_without_the_founder() -> None:
    time = Time()
    founder = Member(time)
    issuer = founder.invites(time, Role.ISSUER)
    a, b = founder.invites(time), issuer.invites(time)
    a.admits(b)
    b.admits(a)
    assert a.access.allows(b.peer, Role.TRAINER)
    assert b.access.allows(a.peer, Role.TRAINER)
    (shown,) = a.access.status().admitted  # type: ignore[union-attr]
    assert (shown.peer, shown.by, shown.role, shown.problem) == (b.peer, issuer.peer, "trainer", None)


def test_the_chain_of_another_peer_lets_nobody_in() -> None:
    time = Time()
    founder = Member(time)
    invited, thief = founder.invites(time), Identity.generate()
    with pytest.raises(NotAdmitted, match="the ticket of another peer"):
        founder.access.admit(thief.peer, invited.access.chain)
    assert not founder.access.allows(thief.peer)
    assert founder.access.refused == {"the ticket of another peer": 1}


def test_an_invite_is_for_whoever_uses_it_first() -> None:
    time = Time()
    founder = Member(time)
    invite = founder.access.invite(Role.TRAINER, DAY, ADDRESSES)
    first, second = Member(time, invite), Member(time, invite)
    founder.admits(first)
    with pytest.raises(NotAdmitted, match="another peer used before"):
        founder.admits(second)
    founder.admits(first)  # again


def test_a_ticket_ends_by_the_swarms_clock() -> None:
    time = Time()
    founder = Member(time)
    invited = founder.invites(time, seconds=60)
    founder.admits(invited)
    time.passes(59)
    assert founder.access.allows(invited.peer)
    time.passes(1)
    assert not founder.access.allows(invited.peer)
    with pytest.raises(NotAdmitted, match="has ended"):
        founder.admits(invited)


def test_a_clock_that_is_put_back_brings_no_ticket_back() -> None:
    time = Time()
    founder = Member(time)
    invited = founder.invites(time, seconds=60)
    founder.admits(invited)
    time.passes(61)
    time.clock.follow(Reading(time.clock.reading.base - 3600))
    assert not founder.access.allows(invited.peer)
    with pytest.raises(NotAdmitted, match="has ended"):
        founder.admits(invited)


def test_an_issuer_renews_what_is_due_and_keeps_role_and_serial() -> None:
    time = Time()
    founder = Member(time)
    issuer, invited = founder.invites(time, Role.ISSUER), founder.invites(time, Role.CENTRE, seconds=60)
    issuer.admits(invited)
    assert invited.access.renewal_due
    serial = issuer.access.status().admitted[0].serial  # type: ignore[union-attr]
    # The issuer's own chain is from an invite of a day: what it signs ends with that.
    invited.access.renew(issuer.access.renewed(invited.peer))
    assert issuer.access.renewed(invited.peer) == b""
    assert invited.access.status().seconds_left == DAY  # type: ignore[union-attr]
    issuer.access.renew(founder_renews(founder, issuer))
    assert issuer.access.status().seconds_left == ISSUER_SECONDS  # type: ignore[union-attr]
    issuer.admits(invited)
    invited.access.renew(issuer.access.renewed(invited.peer))
    assert not invited.access.renewal_due
    shown = {a.peer: a for a in issuer.access.status().admitted}[invited.peer]  # type: ignore[union-attr]
    assert (shown.role, shown.serial, shown.by) == ("centre", serial, issuer.peer)
    assert shown.seconds_left == TICKET_SECONDS
    assert issuer.access.renewed(invited.peer) == b""  # not due yet
    time.passes(TICKET_SECONDS / 2 + 1)
    assert issuer.access.renewed(invited.peer)


def founder_renews(founder: Member, other: Member) -> bytes:
    founder.admits(other)
    return founder.access.renewed(other.peer)


def test_who_is_no_issuer_renews_nothing_and_an_issuer_no_issuer() -> None:
    time = Time()
    founder = Member(time)
    a, b = founder.invites(time), founder.invites(time)
    a.admits(b)
    assert a.access.renewed(b.peer) == b""
    one, two = founder.invites(time, Role.ISSUER), founder.invites(time, Role.ISSUER)
    one.admits(two)
    assert one.access.renewed(two.peer) == b""
    assert founder_renews(founder, two)


@pytest.mark.parametrize("seconds", [0, LIFE_SECONDS_MAX + 1])
def test_no_ticket_lives_for_ever(seconds: int) -> None:
    with pytest.raises(ConfigError, match="up to 30 days"):
        Member(Time()).access.invite(Role.TRAINER, seconds, ADDRESSES)


def test_only_issuers_admit_and_only_the_founder_makes_issuers() -> None:
    time = Time()
    founder = Member(time)
    trainer, issuer = founder.invites(time), founder.invites(time, Role.ISSUER)
    with pytest.raises(ConfigError, match="the founder or an issuer"):
        trainer.access.invite(Role.TRAINER, DAY, ADDRESSES)
    with pytest.raises(ConfigError, match="only the founder admits issuers"):
        issuer.access.invite(Role.ISSUER, DAY, ADDRESSES)
    with pytest.raises(ConfigError, match="the id of a peer"):
        founder.access.invite(Role.TRAINER, DAY, ADDRESSES, "somebody")


# -- revocations -------------------------------------------------------------------------------------------------------


def test_whom_the_founder_revokes_nobody_lets_in_who_heard_of_it() -> None:
    time = Time()
    founder = Member(time)
    a, b = founder.invites(time), founder.invites(time)
    for one, other in itertools.permutations((founder, a, b), 2):
        one.admits(other)
    founder.access.revoke(b.peer)
    assert not founder.access.allows(b.peer)
    assert a.access.allows(b.peer)
    a.access.merge(founder.access.revoked)
    assert a.access.revoked_digest == founder.access.revoked_digest != ""
    assert not a.access.allows(b.peer)
    with pytest.raises(NotAdmitted, match="was revoked"):
        a.admits(b)
    again = Member(time, founder.access.invite(Role.TRAINER, DAY, ADDRESSES), b.identity)
    with pytest.raises(NotAdmitted, match="was revoked"):
        founder.admits(again)  # the peer is revoked, not only its ticket


def test_admitting_a_peer_again_takes_its_revocation_back() -> None:
    time = Time()
    founder = Member(time)
    a, b = founder.invites(time), founder.invites(time)
    founder.admits(b)
    founder.access.revoke(b.peer)
    a.access.merge(founder.access.revoked)
    again = Member(time, founder.access.invite(Role.TRAINER, DAY, ADDRESSES, b.peer), b.identity)
    founder.admits(again)
    a.access.merge(founder.access.revoked)
    a.admits(again)
    assert a.access.allows(b.peer)
    with pytest.raises(NotAdmitted, match="was revoked"):
        a.admits(b)  # the old ticket stays revoked


def test_whose_ticket_a_revoked_issuer_only_renewed_shows_the_one_before_again() -> None:
    time = Time()
    founder = Member(time)
    issuer, member, other = founder.invites(time, Role.ISSUER), founder.invites(time), founder.invites(time)
    issuer.admits(member)
    before = member.access.chain
    member.access.renew(issuer.access.renewed(member.peer))
    memory = member.access.memory()
    assert memory is not None
    founder.admits(issuer)
    founder.access.revoke(issuer.peer)
    other.access.merge(founder.access.revoked)
    with pytest.raises(NotAdmitted, match="was revoked"):
        other.admits(member)
    again = AccessList(member.identity, time.clock)
    again.recall(AccessMemory.model_validate_json(memory.model_dump_json()))
    for access in (member.access, again):
        access.merge(founder.access.revoked)
        assert access.chain == before
        assert access.allows(member.peer, Role.TRAINER)
    other.admits(member)


def test_of_two_renewals_by_one_issuer_the_ticket_by_another_one_is_kept() -> None:
    time = Time()
    founder = Member(time)
    issuer, member = founder.invites(time, Role.ISSUER), founder.invites(time)
    issuer.access.renew(founder_renews(founder, issuer))
    before = member.access.chain
    for _ in range(2):
        issuer.admits(member)
        member.access.renew(issuer.access.renewed(member.peer))
        time.passes(TICKET_SECONDS / 2 + 1)
    founder.access.revoke(issuer.peer)
    member.access.merge(founder.access.revoked)
    assert member.access.chain == before


def test_an_issuer_revokes_whom_it_admitted_also_after_another_renewed_it() -> None:
    time = Time()
    founder = Member(time)
    one, two = founder.invites(time, Role.ISSUER), founder.invites(time, Role.ISSUER)
    mine, theirs = one.invites(time), two.invites(time)
    for member in (mine, theirs):
        one.admits(member)
        two.admits(member)
    mine.access.renew(two.access.renewed(mine.peer))
    one.access.revoke(mine.peer)
    two.access.merge(one.access.revoked)
    with pytest.raises(NotAdmitted, match="was revoked"):
        two.admits(mine)
    with pytest.raises(ConfigError, match="a ticket that this peer issued"):
        one.access.revoke(theirs.peer)


def test_a_list_of_what_an_issuer_did_not_make_changes_nothing() -> None:
    time = Time()
    founder = Member(time)
    issuer, other = founder.invites(time, Role.ISSUER), founder.invites(time)
    founder.admits(other)
    serial = bytes.fromhex(founder.access.status().admitted[0].serial)  # type: ignore[union-attr]
    held = read_chain(root_of(issuer), issuer.access.chain)
    forged = Revocations(root_of(founder))
    forged.change(issuer.identity, held, int(time.clock.now()) + LIFE_SECONDS_MAX, [serial])
    founder.access.merge(forged.packed)
    assert founder.access.allows(other.peer)


def test_whom_an_issuer_admitted_goes_with_it() -> None:
    time = Time()
    founder = Member(time)
    issuer = founder.invites(time, Role.ISSUER)
    guest = issuer.invites(time)
    founder.admits(issuer)
    founder.admits(guest)
    founder.access.revoke(issuer.peer)
    assert not founder.access.allows(guest.peer)


def test_neither_the_founder_nor_the_peer_itself_can_be_revoked() -> None:
    time = Time()
    founder = Member(time)
    issuer = founder.invites(time, Role.ISSUER)
    for member, whom in ((founder, founder), (issuer, founder), (issuer, issuer)):
        with pytest.raises(ConfigError, match="another peer than the founder and this one"):
            member.access.revoke(whom.peer)


def test_a_list_goes_never_back_and_is_the_same_in_any_order() -> None:
    time = Time()
    founder = Member(time)
    a, b = founder.invites(time), founder.invites(time)
    lists = []
    for _ in range(3):
        founder.access.revoke(Identity.generate().peer)
        lists.append(founder.access.revoked)
    for one in lists:
        a.access.merge(one)
    for one in reversed(lists):
        b.access.merge(one)
    assert a.access.revoked == b.access.revoked == lists[-1]


def test_a_full_list_is_said_and_old_entries_make_room() -> None:
    time = Time()
    founder = Member(time)
    for _ in range(ENTRIES_MAX):
        founder.access.revoke(Identity.generate().peer)
    with pytest.raises(ConfigError, match=f"at most {ENTRIES_MAX} revocations"):
        founder.access.revoke(Identity.generate().peer)
    assert len(founder.access.revoked) <= LISTS_BYTES_MAX
    time.passes(LIFE_SECONDS_MAX + 1)
    founder.access.revoke(Identity.generate().peer)


@given(st.data())
def test_lists_that_were_changed_are_refused_or_change_nothing(data: st.DataObject) -> None:
    time = Time()
    founder = Member(time)
    a = founder.invites(time)
    founder.access.revoke(Identity.generate().peer)
    changed = bytearray(founder.access.revoked)
    bit = data.draw(st.integers(0, 8 * len(changed) - 1))
    changed[bit // 8] ^= 1 << bit % 8
    with contextlib.suppress(NotAdmitted):
        a.access.merge(bytes(changed))
    assert a.access.revoked == b""


@given(st.binary(max_size=500))
def test_noise_is_no_list(noise: bytes) -> None:
    access = Member(Time()).access
    with contextlib.suppress(NotAdmitted):
        access.merge(noise)
    assert access.revoked == b""


# -- another life ------------------------------------------------------------------------------------------------------


def test_another_life_remembers_ticket_revocations_and_used_invites() -> None:
    time = Time()
    founder = Member(time)
    invite = founder.access.invite(Role.TRAINER, DAY, ADDRESSES)
    first, second = Member(time, invite), Member(time, invite)
    gone = founder.invites(time)
    for member in (first, gone):
        founder.admits(member)
    founder.access.revoke(gone.peer)
    saved = AccessMemory.model_validate_json(founder.access.memory().model_dump_json())  # type: ignore[union-attr]
    again = AccessList(founder.identity, time.clock)
    again.recall(saved)
    again.admit(first.peer, first.access.chain)
    for member, why in ((second, "another peer used before"), (gone, "was revoked")):
        with pytest.raises(NotAdmitted, match=why):
            again.admit(member.peer, member.access.chain)
    kept = first.access.memory()
    assert kept is not None
    life = AccessList(first.identity, time.clock)
    life.recall(kept)
    assert life.chain == first.access.chain


@pytest.mark.parametrize("changes", [{"chain": "zz"}, {"chain": "00"}, {"revoked": "0000"}, {"invites": {"x": "y"}}])
def test_a_memory_that_was_changed_is_said(changes: dict[str, object]) -> None:
    time = Time()
    invited = Member(time).invites(time)
    memory = invited.access.memory()
    assert memory is not None
    with pytest.raises(ConfigError, match="give --invite LINE"):
        AccessList(invited.identity, time.clock).recall(memory.model_copy(update=changes))


def root_of(member: Member) -> Root:
    assert member.access.root is not None
    return member.access.root
