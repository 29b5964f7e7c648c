"""What twelve runs did stays as it is: a change that moves one of these digests has to say why."""

from __future__ import annotations

import pytest
from helpers.recorded import RUNS, Digests, arithmetic

ARITHMETIC = "18c3bc04ce6a18a3"  # of the machine and the PyTorch that the digests of exact numbers are from
EXPECTED = {
    "elastic-gossip, chaos 244": Digests("accaf4e20431cd0f", "bcbff72ceab24e50"),
    "elastic-gossip, chaos 163": Digests("1e2cb4a6d6ee8954", "f5ef19b944f3ca9a"),
    "gossip-pull, chaos 210": Digests("4366a529555af2f8", "1f256a32d4e71ae8"),
    "gossip-push, chaos 377": Digests("cf98ef1439c12cf7", "afdd71e62559d82a"),
    "gosgd, chaos 96": Digests("0a4b8813d1f01bc3", "2ed2a46860f87716"),
    "easgd, chaos 722": Digests("b7f198ef2e913def", "7b377f8fc227fa0f"),
    "eamsgd, chaos 287": Digests("2f4c7226547229ea", "130fb9f728aa2549"),
    "lsgd, chaos 710": Digests("28f7bca12a31aec0", "a9358a6152cab388"),
    "pairs judged, split and merged": Digests("56468c1edae91810", "ac5e776ddd243c01"),
    "fragments by a budget": Digests("18a2b4116f9927d4", "6e48e6847507bb17"),
    "centre split and handed over": Digests("3f006784bf5ede85", "0772ac0cf2c21824"),
    "leaders of groups": Digests("a619fda1621045d6", "647ce8e748b13eac"),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_does_what_was_recorded_and_to_the_last_bit_where_numbers_are_the_same(name: str) -> None:
    found = RUNS[name]()
    assert found.happened == EXPECTED[name].happened
    if arithmetic() == ARITHMETIC:
        assert found.exact == EXPECTED[name].exact
