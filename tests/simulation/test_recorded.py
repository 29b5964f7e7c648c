"""What twelve runs did stays as it is: a change that moves one of these digests has to say why."""

from __future__ import annotations

import pytest
from helpers.recorded import RUNS, Digests, arithmetic

ARITHMETIC = "d1e839c62a780734"  # of the machine and the PyTorch that the digests of exact numbers are from
EXPECTED = {
    "elastic-gossip, chaos 244": Digests("86572953b0dacf5f", "1868f9413667b043"),
    "elastic-gossip, chaos 163": Digests("164fa1803804ceae", "29704646089d168e"),
    "gossip-pull, chaos 210": Digests("0a9f6e58769accf8", "b3e0b1227372b269"),
    "gossip-push, chaos 377": Digests("27da29d3871e86c5", "a4a134cf073bea8a"),
    "gosgd, chaos 96": Digests("0a4b8813d1f01bc3", "7b8288d73b8d4b26"),
    "easgd, chaos 722": Digests("f749a8e5bbb92b13", "49ae3d37d4ff7432"),
    "eamsgd, chaos 287": Digests("56adce3db3ea5aa9", "a7a082e60882e5e8"),
    "lsgd, chaos 710": Digests("28f7bca12a31aec0", "526a2869c6d08f4e"),
    "pairs judged, split and merged": Digests("b42c8920835d1487", "563c06964a19fe2f"),
    "fragments by a budget": Digests("a130af948f7392c4", "82314f572d09f7a1"),
    "centre split and handed over": Digests("e91a00b771587293", "9377697c4c2c6df0"),
    "leaders of groups": Digests("a619fda1621045d6", "647ce8e748b13eac"),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_does_what_was_recorded_and_to_the_last_bit_where_numbers_are_the_same(name: str) -> None:
    found = RUNS[name]()
    assert found.happened == EXPECTED[name].happened
    if arithmetic() == ARITHMETIC:
        assert found.exact == EXPECTED[name].exact
