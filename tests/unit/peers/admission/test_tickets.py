"""Chains of tickets and the line of an invite: what a founder signed is let in, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.private_runs import ADDRESSES, DAY, Member, Time
from hypothesis import given
from hypothesis import strategies as st

from p2p_elastic.errors import ConfigError, NotAdmitted
from p2p_elastic.peers.admission.invites import PREFIX, read_invite
from p2p_elastic.peers.admission.tickets import (
    CHAIN_BYTES_MAX,
    TICKET_BYTES,
    Root,
    Ticket,
    new_serial,
    owner_of,
    read_chain,
    write_chain,
)
from p2p_elastic.peers.transport.identity import Identity
from p2p_elastic.protocol.roles import Role

FOUNDER, ISSUER, PEER, OTHER = (Identity.generate() for _ in range(4))
ROOT = Root("lab", FOUNDER.peer)
UNTIL = 2_000_000_000


def ticket(
    issuer: Identity, holder: Identity, role: Role = Role.TRAINER, *, invite: bool = False, **more: object
) -> Ticket:
    unsigned = Ticket(holder.peer_bytes, role, new_serial(issuer.peer_bytes), UNTIL, invite)
    return unsigned._replace(**more).signed(ROOT, issuer)


def test_a_chain_says_who_holds_which_role_and_who_admitted_it() -> None:
    chain = write_chain((ticket(FOUNDER, ISSUER, Role.ISSUER), ticket(ISSUER, PEER, not_after=UNTIL - 5)))
    held = read_chain(ROOT, chain)
    assert (held.peer, held.last.role, held.by, held.not_after) == (PEER.peer, Role.TRAINER, ISSUER.peer, UNTIL - 5)
    assert held.chain == chain
    assert not held.from_invite


def test_an_invite_names_one_peer_as_it_is_itself() -> None:
    key = Identity.generate()
    line = ticket(FOUNDER, key, invite=True)
    named = line._replace(holder=PEER.peer_bytes, invite=False).signed(ROOT, key)
    held = read_chain(ROOT, write_chain((line, named)))
    assert (held.peer, held.by, held.from_invite) == (PEER.peer, FOUNDER.peer, True)
    for changes in ({"role": Role.CENTRE}, {"not_after": UNTIL + 1}, {"serial": b"x" * 16}, {"invite": True}):
        other = named._replace(**changes).signed(ROOT, key)
        with pytest.raises(NotAdmitted, match="an invite names one peer"):
            read_chain(ROOT, write_chain((line, other)))


@pytest.mark.parametrize(
    ("tickets", "why"),
    [
        ((), "no ticket"),
        ((ticket(PEER, PEER),), "forged"),
        ((ticket(FOUNDER, OTHER), ticket(OTHER, PEER)), "a trainer admits nobody"),
        ((ticket(FOUNDER, OTHER, Role.CENTRE), ticket(OTHER, PEER)), "a centre admits nobody"),
        ((ticket(FOUNDER, ISSUER, Role.ISSUER), ticket(ISSUER, PEER, Role.ISSUER)), "only the founder makes issuers"),
        ((ticket(FOUNDER, ISSUER, Role.ISSUER), ticket(OTHER, PEER)), "forged"),
        ((ticket(FOUNDER, PEER),) * 5, "no ticket"),
    ],
)
def test_what_the_founder_did_not_allow_is_refused(tickets: tuple[Ticket, ...], why: str) -> None:
    with pytest.raises(NotAdmitted, match=why):
        read_chain(ROOT, write_chain(tickets))


def test_a_ticket_is_for_one_run_of_one_founder() -> None:
    chain = write_chain((ticket(FOUNDER, PEER),))
    for root in (ROOT._replace(run="lab2"), ROOT._replace(founder=OTHER.peer)):
        with pytest.raises(NotAdmitted, match="another run"):
            read_chain(root, chain)


GENUINE = write_chain((ticket(FOUNDER, ISSUER, Role.ISSUER), ticket(ISSUER, PEER)))


@given(st.integers(0, 8 * len(GENUINE) - 1))
def test_a_chain_of_which_one_bit_was_changed_is_refused(bit: int) -> None:
    changed = bytearray(GENUINE)
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(NotAdmitted):
        read_chain(ROOT, bytes(changed))


@given(st.binary(max_size=CHAIN_BYTES_MAX + TICKET_BYTES))
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(NotAdmitted):
        read_chain(ROOT, noise)


def test_a_serial_tells_its_issuer_and_is_never_the_same() -> None:
    made = {new_serial(ISSUER.peer_bytes) for _ in range(100)}
    assert len(made) == 100
    assert {serial[:8] for serial in made} == {owner_of(ISSUER.peer_bytes)}


# -- the line ----------------------------------------------------------------------------------------------------------


def test_a_line_is_read_as_it_was_written_also_from_a_file(tmp_path: Path) -> None:
    invite = Member(Time()).access.invite(Role.TRAINER, DAY, ADDRESSES)
    line = invite.line()
    assert line.startswith(PREFIX)
    assert len(line) < 1000
    (tmp_path / "line").write_text(f"{line}\n")
    assert read_invite(f" {line}\n") == read_invite(str(tmp_path / "line")) == invite
    assert invite.key not in repr(invite)


@pytest.mark.parametrize("line", ["", "hello", PREFIX, PREFIX + "e30", PREFIX + "x" * 9000, "/no/such/file"])
def test_what_is_no_line_is_refused_with_what_to_give(line: str) -> None:
    with pytest.raises(ConfigError, match="the whole line that `p2p-elastic invite`"):
        read_invite(line)


def test_a_line_for_one_peer_is_for_no_other() -> None:
    founder = Member(Time())
    invite = founder.access.invite(Role.OBSERVER, DAY, ADDRESSES, PEER.peer)
    assert read_chain(invite.root, invite.chain_for(PEER)).peer == PEER.peer
    with pytest.raises(ConfigError, match="the line made for this peer"):
        invite.chain_for(OTHER)


def test_a_role_is_written_as_a_word() -> None:
    assert [Role.of(role.word) for role in Role] == list(Role)
    with pytest.raises(ValueError, match="one of observer, trainer, centre, issuer"):
        Role.of("boss")
