"""What twelve runs did stays as it is: a change that moves one of these digests has to say why."""

from __future__ import annotations

import pytest
from helpers.recorded import RUNS, Digests, arithmetic

ARITHMETIC = "d1e839c62a780734"  # of the machine and the PyTorch that the digests of exact numbers are from
EXPECTED = {
    "elastic-gossip, chaos 244": Digests("b6f0f4d6bba47562", "f124779f0b511658"),
    "elastic-gossip, chaos 163": Digests("8f6695394f091afb", "16c5fc600e2f5a45"),
    "gossip-pull, chaos 210": Digests("76cd312a81a6660e", "bc8bb771c198109d"),
    "gossip-push, chaos 377": Digests("046c68ffe3bd5d72", "d283c6518bc66bdb"),
    "gosgd, chaos 96": Digests("e340172051cf39d5", "0b7f4f58bc3fad65"),
    "easgd, chaos 722": Digests("352349f7fe78ce70", "1e5d4825d6f14164"),
    "eamsgd, chaos 287": Digests("470e8e6cf0caba70", "a9b38f3950982af9"),
    "lsgd, chaos 710": Digests("642f149be77b0e0c", "2fdae48ec70fa234"),
    "pairs judged, split and merged": Digests("a82c8a834c8cddc0", "f4ee5d697d6318a0"),
    "fragments by a budget": Digests("1167e18926c58024", "facbf781d0eee96b"),
    "centre split and handed over": Digests("723f5d02fd3c43b6", "0e1cc4b956f78a39"),
    "leaders of groups": Digests("55ea9ada2178e32f", "1f2ae6f5fa2d5ca5"),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_does_what_was_recorded_and_to_the_last_bit_where_numbers_are_the_same(name: str) -> None:
    found = RUNS[name]()
    assert found.happened == EXPECTED[name].happened
    if arithmetic() == ARITHMETIC:
        assert found.exact == EXPECTED[name].exact
