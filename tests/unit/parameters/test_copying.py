"""A snapshot that is sent while it is made."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

from p2p_elastic.errors import ExchangeError
from p2p_elastic.parameters.copying import Copying
from p2p_elastic.parameters.vector import ParameterVector


def test_who_waits_goes_on_once_it_is_copied_that_far() -> None:
    copying, reached = Copying(10), list[int]()

    def wait() -> None:
        for elements in (4, 10):
            copying.wait(elements)
            reached.append(elements)

    thread = threading.Thread(target=wait)
    thread.start()
    assert not copying.done
    copying.reached(5)
    copying.wait(5)
    copying.reached(10)
    thread.join(10.0)
    assert reached == [4, 10]
    assert copying.done


def test_what_is_on_its_way_from_a_gpu_is_waited_for_too() -> None:
    waited = list[None]()
    copying = Copying(3, lambda: waited.append(None))
    copying.end()
    copying.wait()
    assert len(waited) == 1


def test_a_copy_that_fails_lets_nobody_send_what_is_there() -> None:
    copying = Copying(3)
    copying.end(failed=True)
    with pytest.raises(ExchangeError, match="could not be copied"):
        copying.wait(1)


def test_a_snapshot_of_nothing_is_there() -> None:
    assert Copying(0).done
    Copying(0).wait()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_vector_says_how_far_its_copy_is(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(300, 200), nn.Linear(200, 7), nn.BatchNorm1d(7)).to(dtype)
    vector = ParameterVector(model)
    vector.flatten()
    for part in (None, (100, 50_000)):
        size = vector.elements if part is None else part[1] - part[0]
        copying, told = Copying(size), list[int]()
        copying.reached = told.append  # type: ignore[method-assign]
        out = vector.empty(size)
        vector.begin_snapshot(out, part, copying)
        assert told == sorted(told)
        assert told[-1] == size
        torch.testing.assert_close(out, vector.snapshot(vector.empty(size), part), rtol=0, atol=0)
