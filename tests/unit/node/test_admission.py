"""How a process gets into a private run: founds it, uses an invite, or goes on as before."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.private_runs import ADDRESSES, DAY, Member, Time

from p2p_elastic.errors import ConfigError
from p2p_elastic.node import admission
from p2p_elastic.node.admission import FILE, Doorkeeper, enter, identity_in, keep, prepare
from p2p_elastic.node.config import JoinConfig, load_config
from p2p_elastic.node.resume import Past
from p2p_elastic.peers.admission.tickets import Root
from p2p_elastic.peers.discovery.live_network import LiveNetwork
from p2p_elastic.peers.transport.identity import Identity
from p2p_elastic.protocol.roles import Role

OPEN = JoinConfig()


def line_of(role: Role = Role.TRAINER, founder: Member | None = None, peer: str | None = None) -> str:
    return (founder or Member(Time())).access.invite(role, DAY, ADDRESSES, peer).line()


def past_of(root: Root, output: Path, admission: str = "ticket") -> Past:
    manifest = SimpleNamespace(admission=admission, run=root.run, founder=root.founder)
    return SimpleNamespace(output=output, saved=SimpleNamespace(manifest=manifest))  # type: ignore[return-value]


def network(identity: Identity | None = None) -> LiveNetwork:
    return LiveNetwork(identity or Identity.generate(), ())


def test_an_open_run_stays_open() -> None:
    here = network()
    prepare(here, OPEN, None)
    assert not here.access.private
    prepare(here, OPEN, past_of(Root("lab", "x"), Path(), "open"))
    assert not here.access.private


def test_a_founder_admits_nobody_before_its_run_has_a_name() -> None:
    here = network()
    prepare(here, JoinConfig(admission="ticket"), None)
    assert here.access.private
    assert not here.access.allows(Identity.generate().peer)


def test_an_invite_brings_initial_peers_run_and_ticket(tmp_path: Path) -> None:
    line = line_of()
    (tmp_path / "line").write_text(line)
    for given in (line, str(tmp_path / "line")):
        config = load_config(None, {"invite": given, "initial_peer": ("/ip4/192.0.2.9/tcp/1/p2p/12D3KooWx",)})
        assert config.run == "lab"
        assert config.initial_peer == ("/ip4/192.0.2.9/tcp/1/p2p/12D3KooWx", *ADDRESSES)
        here = network()
        prepare(here, config, None)
        assert here.access.root is not None
        assert here.access.root.run == "lab"
        assert here.access.chain
    assert "p2p-elastic-invite" not in repr(config)


def test_an_invite_to_another_run_than_was_asked_for_is_refused() -> None:
    with pytest.raises(ConfigError, match="the invite is to run 'lab'"):
        load_config(None, {"invite": line_of(), "run": "other"})


@pytest.mark.parametrize(
    ("role", "options", "advice"),
    [
        (Role.OBSERVER, {}, "--role trainer; this one is for `p2p-elastic export`"),
        (Role.TRAINER, {"role": "centre"}, "--role centre"),
        (Role.CENTRE, {"role": "centre"}, None),
        (Role.ISSUER, {}, None),
    ],
)
def test_a_ticket_has_to_be_for_what_the_peer_does(role: Role, options: dict[str, Any], advice: str | None) -> None:
    config = JoinConfig(invite=line_of(role), **options)
    if advice is None:
        prepare(network(), config, None)
    else:
        with pytest.raises(ConfigError, match=advice):
            prepare(network(), config, None)


def test_a_line_for_another_peer_is_refused() -> None:
    with pytest.raises(ConfigError, match="the line made for this peer"):
        enter(network(), line_of(peer=Identity.generate().peer))


def test_the_same_invite_gives_the_same_identity_on_one_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "state_folder", lambda: tmp_path)
    line = line_of()
    first = identity_in(None, line).peer
    assert identity_in(None, line).peer == first
    assert identity_in(None, line_of()).peer != first
    assert identity_in(None, None).peer != identity_in(None, None).peer
    assert identity_in(tmp_path / "key", line).peer == identity_in(tmp_path / "key", None).peer != first
    kept = next((tmp_path / "invited").iterdir())
    assert (kept.stat().st_mode & 0o777, (tmp_path / "invited").stat().st_mode & 0o777) == (0o400, 0o700)
    monkeypatch.setattr(admission, "state_folder", lambda: tmp_path / "key" / "no folder")
    assert identity_in(None, line).peer != first  # it cannot be kept: then the line works once


def test_another_life_needs_no_invite(tmp_path: Path) -> None:
    founder, identity = Member(Time()), Identity.generate()
    here = network(identity)
    enter(here, line_of(founder=founder))
    keep(here.access, tmp_path)
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600
    root = Root("lab", founder.peer)
    again = network(identity)
    prepare(again, OPEN, past_of(root, tmp_path))
    assert (again.access.root, again.access.chain) == (root, here.access.chain)


def test_what_changes_is_kept_at_once(tmp_path: Path) -> None:
    identity = Identity.generate()
    here, root = network(identity), Root("lab", identity.peer)
    here.access.enter(root)
    keep(here.access, tmp_path)
    Doorkeeper(here).revoke(Identity.generate().peer)
    again = network(identity)
    prepare(again, OPEN, past_of(root, tmp_path))
    assert again.access.revoked == here.access.revoked != b""


def test_without_its_file_a_founder_goes_on_and_another_peer_needs_a_line(tmp_path: Path) -> None:
    identity = Identity.generate()
    here = network(identity)
    prepare(here, OPEN, past_of(Root("lab", identity.peer), tmp_path))
    assert here.access.issues
    founder = Member(Time())
    with pytest.raises(ConfigError, match="ask for a new line"):
        prepare(network(), OPEN, past_of(Root("lab", founder.peer), tmp_path))
    config = JoinConfig(invite=line_of(founder=founder))
    prepare(network(), config, past_of(Root("lab", founder.peer), tmp_path))


def test_a_file_that_was_changed_is_said(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("{}")
    (tmp_path / FILE).chmod(0o600)
    with pytest.raises(ConfigError, match="a whole file"):
        prepare(network(), OPEN, past_of(Root("lab", "x"), tmp_path))


def test_what_cannot_be_kept_is_no_reason_not_to_train(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    identity = Identity.generate()
    here = network(identity)
    here.access.enter(Root("lab", identity.peer))
    keep(here.access, tmp_path / "missing")
    assert "cannot be written" in caplog.text


def test_an_open_run_keeps_nothing(tmp_path: Path) -> None:
    keep(network().access, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_role_that_there_is_not_is_refused() -> None:
    with pytest.raises(ConfigError, match="one of observer, trainer, centre, issuer"):
        Doorkeeper(network()).invite("boss", DAY, None)
