"""Ctrl-C in a program whose loop is somebody else's."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from p2p_elastic.common.stop_loop import LoopStop


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_a_loop_that_never_looks_is_interrupted_as_always() -> None:
    stop = LoopStop()
    with pytest.raises(KeyboardInterrupt), stop.signals():
        interrupt()
    assert stop.requested


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_loop_that_looks_is_asked_first_and_interrupted_at_the_second_signal(number: int) -> None:
    stop = LoopStop()
    with stop.signals():
        assert not stop.watched()
        os.kill(os.getpid(), number)
        assert stop.watched()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)


def test_the_handlers_before_are_put_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with LoopStop().signals():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


def test_in_another_thread_no_handler_is_touched() -> None:
    before, seen = signal.getsignal(signal.SIGINT), list[object]()

    def enter() -> None:
        with LoopStop().signals():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [before]
