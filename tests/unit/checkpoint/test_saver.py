"""When checkpoints are written, with a store that is as slow and as broken as asked."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from helpers.statuses import status_of
from pydantic import BaseModel

from p2p_elastic.checkpoint.saver import Interval, Saver
from p2p_elastic.checkpoint.store import Content
from p2p_elastic.errors import ConfigError
from p2p_elastic.health.checks import judge


class Nothing(BaseModel):
    """No facts."""


class Disk:
    """Notes what is written; waits for `free` where it is not set."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.problem: OSError | None = None
        self.free = threading.Event()
        self.free.set()

    def write(self, content: Content) -> Path:
        self.free.wait()
        if self.problem is not None:
            raise self.problem
        self.steps.append(content.step)
        return Path()


class Run:
    """A saver, its store, its time and its step."""

    def __init__(self, interval: str) -> None:
        self.now, self.step, self.disk = 0.0, 0, Disk()
        self.tensors = {"model": {"weight": torch.ones(3), "batches": torch.tensor(2)}}
        self.saver = Saver(
            self.disk,
            Interval.parse(interval),
            lambda: self.now,
            lambda: Content(self.step, Nothing(), self.tensors, learnt=("weight",)),
        )

    def train(self, steps: int, *, seconds: float = 1.0, wait: bool = True) -> None:
        for _ in range(steps):
            self.step, self.now = self.step + 1, self.now + seconds
            self.saver.between_steps(self.step)
            if wait:
                self.finish()

    def finish(self) -> None:
        self.saver.finish(lambda: False, seconds=60.0, grace_seconds=60.0)


@pytest.mark.parametrize(
    ("text", "interval"),
    [
        ("500", Interval(steps=500)),
        ("90s", Interval(seconds=90.0)),
        ("5m", Interval(seconds=300.0)),
        ("1h", Interval(seconds=3600.0)),
        ("0", Interval()),
        ("0s", Interval()),
    ],
)
def test_an_interval_is_steps_or_a_time(text: str, interval: Interval) -> None:
    assert Interval.parse(text) == interval


@pytest.mark.parametrize("text", ["", "5 m", "-1", "1.5h", "5d", "m", "9999999999"])
def test_anything_else_is_no_interval(text: str) -> None:
    with pytest.raises(ConfigError, match="checkpoint-every"):
        Interval.parse(text)


def test_every_so_many_steps_and_at_the_end() -> None:
    run = Run("10")
    run.train(25)
    run.saver.begin_last()
    run.finish()
    assert run.disk.steps == [10, 20, 25]


def test_steps_that_jump_are_saved_where_they_pass_a_multiple() -> None:  # exchanges with a centre that is looked at
    run = Run("10")
    for run.step in (0, 0, 3, 9, 14, 19, 20, 45, 45, 49):
        run.saver.between_steps(run.step)
        run.finish()
    assert run.disk.steps == [14, 20, 45]


def test_a_resumed_count_goes_on() -> None:
    run = Run("10")
    run.step = 20  # saved by the life before
    run.train(25)
    assert run.disk.steps == [30, 40]


def test_every_so_many_seconds_and_not_before() -> None:
    run = Run("5m")
    run.train(299)
    assert run.disk.steps == []
    run.train(400)
    assert run.disk.steps == [300, 600]


def test_zero_writes_nothing_not_even_at_the_end() -> None:
    run = Run("0")
    run.train(1000)
    run.saver.begin_last()
    run.finish()
    assert run.disk.steps == []


def test_a_slow_disk_does_not_stop_training_and_what_is_left_out_is_counted() -> None:
    run = Run("10")
    run.disk.free.clear()
    run.train(35, wait=False)
    assert run.saver.status().skipped == 2
    run.saver.begin_last()
    run.disk.free.set()
    run.finish()
    assert run.disk.steps == [10, 35]  # the last one waits for its turn


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_a_model_that_diverged_takes_no_place_of_one_that_had_not(
    broken: float, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run("10")
    run.train(10)
    run.tensors["model"]["weight"][1] = broken
    run.train(25)
    run.saver.begin_last()
    run.finish()
    assert run.disk.steps == [10]
    assert (run.saver.status().step, run.saver.status().skipped) == (10, 3)
    assert "the model is not finite; the one before stays" in caplog.text
    run.tensors["model"]["weight"][1] = 0.0  # a partner healed it
    run.train(5)
    assert run.disk.steps == [10, 40]


def test_a_mask_may_be_infinite() -> None:
    run = Run("10")
    run.tensors["model"]["mask"] = torch.tensor([0.0, -torch.inf])
    run.train(10)
    run.finish()
    assert run.disk.steps == [10]


def test_a_failure_is_told_in_status_and_health_until_the_next_success() -> None:
    run = Run("10")
    run.train(10)
    run.disk.problem = OSError(28, "No space left on device")
    run.train(20)
    status = run.saver.status()
    assert (status.step, status.age_seconds, status.failures) == (10, 20.0, 2)
    health = judge(status_of(checkpoint=status))
    assert [reason.code for reason in health.reasons] == ["checkpoint_failed"]
    assert "No space left" in health.reasons[0].text
    assert "step 10" in health.reasons[0].text
    run.disk.problem = None
    run.train(10)
    assert judge(status_of(checkpoint=run.saver.status())).status == "ok"
    assert run.saver.status().step == 40


def test_a_disk_that_hangs_at_the_end_is_not_waited_for_once_the_user_asked_to_stop(
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = Run("10")
    run.disk.free.clear()
    run.saver.begin_last()
    run.saver.finish(lambda: True, seconds=60.0, grace_seconds=0.0)
    assert "not written in time" in caplog.text
    run.disk.free.set()
    run.finish()


def test_the_last_checkpoint_is_waited_for_also_where_what_is_done_meanwhile_fails() -> None:
    run = Run("10")
    run.disk.free.clear()

    def stop() -> bool:  # is asked by who waits
        run.disk.free.set()
        return False

    with pytest.raises(RuntimeError), run.saver.last(stop, seconds=60.0, grace_seconds=60.0):
        raise RuntimeError
    assert run.disk.steps == [0]
