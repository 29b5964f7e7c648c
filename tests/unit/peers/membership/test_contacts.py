"""From whom anything came."""

from __future__ import annotations

from p2p_elastic.health.trust import PARTNERS_MAX
from p2p_elastic.peers.discovery.view import WANTED_MAX
from p2p_elastic.peers.membership.contacts import Contacts


def test_strangers_are_contacts_and_put_no_member_out_of_memory() -> None:
    contacts = Contacts()
    contacts.heard("member", member=True)
    for number in range(2 * PARTNERS_MAX):
        contacts.heard(f"stranger {number}", member=False)
    assert "member" in contacts
    assert "stranger 1" not in contacts
    assert contacts.latest[0] == f"stranger {2 * PARTNERS_MAX - 1}"
    assert len(contacts.latest) == WANTED_MAX


def test_who_answered_the_directory_was_there_and_is_no_contact() -> None:
    contacts = Contacts()
    contacts.reached(["near"])
    contacts.heard("member", member=True)
    contacts.heard("stranger", member=False)
    assert [contacts.ever(peer) for peer in ("near", "member", "stranger")] == [True, True, False]
    assert "near" not in contacts
    contacts.reached(map(str, range(PARTNERS_MAX)))
    assert not contacts.ever("near")


def test_the_latest_members_are_remembered_each_once() -> None:
    contacts = Contacts()
    for number in range(PARTNERS_MAX + 1):
        contacts.heard(str(number), member=True)
        contacts.heard("often", member=True)
    assert "often" in contacts
    assert "0" not in contacts
    assert contacts.latest[:2] == ("often", str(PARTNERS_MAX))
