"""The commands that say who may take part, against the real application."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from helpers.asking import served
from helpers.private_runs import ADDRESSES, Member, Time
from helpers.statuses import status_of

from p2p_elastic.cli.admission import admit, invite, members, revoke
from p2p_elastic.cli.main import main
from p2p_elastic.peers.admission.invites import read_invite
from p2p_elastic.peers.transport.identity import Identity
from p2p_elastic.protocol.roles import Role
from p2p_elastic.status.schema import PeerStatus

pytestmark = pytest.mark.processes
TOKEN = "a-token-of-this-peer"


class Door:
    """Of a founder, without a network."""

    def __init__(self) -> None:
        self.time = Time()
        self.founder = Member(self.time)

    def invite(self, role: str, seconds: int, peer: str | None) -> str:
        return self.founder.access.invite(Role.of(role), seconds, ADDRESSES, peer).line()

    def revoke(self, what: str) -> None:
        self.founder.access.revoke(what)

    def status(self) -> PeerStatus:
        return status_of(peer=self.founder.peer, admission=self.founder.access.status())


@pytest.fixture
def door() -> Door:
    return Door()


@pytest.fixture
def at(door: Door, tmp_path: Path) -> Iterator[list[str]]:
    """Options that lead to the peer."""
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "token").chmod(0o600)
    with served(door.status, door=door, token=TOKEN) as url:
        yield ["--url", url, "--http-token-file", str(tmp_path / "token")]


def run(command: str, *arguments: str) -> Result:
    return CliRunner().invoke(main, [command, *arguments])


def test_a_line_is_printed_and_read_by_whom_it_is_for(door: Door, at: list[str]) -> None:
    guest = Identity.generate()
    said = run("invite", "--role", "centre", "--for", "2h", *at)
    assert said.exit_code == 0, said.output
    held = read_invite(said.output)
    assert held.root == door.founder.access.root
    joined = Member(door.time, held, guest)
    door.founder.admits(joined)
    assert joined.access.status().role == "centre"  # type: ignore[union-attr]
    assert joined.access.status().seconds_left == 7200  # type: ignore[union-attr]


def test_a_peer_whose_id_is_known_is_admitted_shown_and_revoked(door: Door, at: list[str]) -> None:
    guest = Identity.generate()
    said = run("admit", guest.peer, "--role", "observer", *at)
    assert said.exit_code == 0, said.output
    door.founder.admits(Member(door.time, read_invite(said.output), guest))
    shown = run("members", *at[:2])
    assert shown.exit_code == 0, shown.output
    (row,) = [line for line in shown.output.splitlines() if guest.peer in line]
    assert row.split()[1:5] == ["observer", "founder", "7", "d"]
    assert run("revoke", guest.peer, *at).exit_code == 0
    assert not door.founder.access.allows(guest.peer)
    assert "the ticket was revoked" in run("members", *at[:2]).output
    assert f'"{guest.peer}"' in run("members", "--json", *at[:2]).output


@pytest.mark.parametrize(
    ("command", "arguments", "said"),
    [
        ("admit", ["Qm" + "x" * 44], "the id of a peer"),
        ("invite", ["--for", "31d"], "less than or equal to 2592000"),
        ("invite", ["--for", "soon"], "a time such as 90s"),
        ("revoke", ["0" * 10], "at least 32 characters"),
    ],
)
def test_what_cannot_be_is_said_with_what_may_be(at: list[str], command: str, arguments: list[str], said: str) -> None:
    found = run(command, *arguments, *at)
    assert found.exit_code == 2
    assert said in found.output


def test_without_the_token_of_the_peer_nobody_is_let_in(at: list[str], tmp_path: Path) -> None:
    (tmp_path / "other").write_text("another-token-than-that")
    (tmp_path / "other").chmod(0o600)
    found = run("invite", *at[:2], "--http-token-file", str(tmp_path / "other"))
    assert found.exit_code == 2
    assert "the token is missing or wrong" in found.output


def test_an_open_run_and_no_peer_at_all_are_told_apart(tmp_path: Path) -> None:
    with served(status_of) as url:
        assert "this run is open to everybody" in run("members", "--url", url).output
    for command in ("members", "invite"):
        found = run(command, "--url", url)
        assert found.exit_code == 2
        assert "is the peer running?" in found.output


def test_each_command_teaches() -> None:
    for command in (invite, admit, revoke, members):
        said = run(str(command.name), "--help").output
        assert command.name in ("revoke", "members") or "p2p-elastic" in said
        assert len(said) > 300
