"""The end of a live peer: it leaves its run, saves and tests its model, and shows how good it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from p2p_elastic.common.metrics import metrics_text, value_text
from p2p_elastic.common.stop import Stop
from p2p_elastic.errors import ConfigError
from p2p_elastic.node.config import JoinConfig
from p2p_elastic.node.connection import Connection
from p2p_elastic.node.results import CENTRE_FILE, MODEL_FILE, Summary, save_model, save_summary, set_aside
from p2p_elastic.parameters.vector import ParameterVector
from p2p_elastic.peers.peer import Peer
from p2p_elastic.screens.live import Screen
from p2p_elastic.screens.units import size
from p2p_elastic.status.schema import ExchangeTotals, FarewellStatus
from p2p_elastic.tasks import Evaluation, batchnorm_layers
from p2p_elastic.training.meter import Meter

STOPPED_TEST_SECONDS = 1.5  # after Ctrl-C everything has to be over within 5
LEAVE_SECONDS, STOPPED_LEAVE_SECONDS, LEAVE_LOOK_SECONDS = 10.0, 1.0, 0.02


class Trained(Protocol):
    """A loop that has ended."""

    @property
    def model(self) -> nn.Module:
        """What was trained."""

    @property
    def meter(self) -> Meter:
        """How far it is."""

    @property
    def vector(self) -> ParameterVector:
        """What of the model travelled."""


class Tester(Protocol):
    """Tests a model on examples that it was not trained on."""

    def test(self, should_stop: Callable[[], bool], grace_seconds: float) -> Evaluation | None:
        """Evaluate the model as it is.

        Args:
            should_stop: asked between batches.
            grace_seconds: how long it may go on after that.

        Returns:
            The evaluation; None if it was not done in time.
        """

    def test_values(self, values: torch.Tensor, should_stop: Callable[[], bool]) -> Evaluation | None:
        """Evaluate other parameters.

        Args:
            values: [D].
            should_stop: asked between batches.

        Returns:
            The evaluation; None if it was stopped.
        """


class Ending:
    """What is done after training, in the thread that trained, once.

    Args:
        config: options of the peer.
        screen: shows the end.
        stop: the user's wish to stop, which makes all of it short.
        connection: of the peer, open.
        resumed: whether the results in the folder are of the same run; otherwise they are set aside.
    """

    def __init__(
        self, config: JoinConfig, screen: Screen, stop: Stop, connection: Connection, *, resumed: bool
    ) -> None:
        self._config, self._screen, self._stop, self._connection = config, screen, stop, connection
        self._resumed = resumed
        self._farewell: FarewellStatus | None = None

    def leave(self, peer: Peer, *, hand_over: bool = True) -> None:
        """Leave the run, with snapshots and moves as the network wants them; within 1 s once the user asked to stop.

        Args:
            peer: that leaves.
            hand_over: whether a partner is to take over the last parameters; False after an error, within 1 s.
        """
        thread = self._connection.thread
        seconds = STOPPED_LEAVE_SECONDS if self._stop() or not hand_over else LEAVE_SECONDS
        leaving = thread.spawn(peer.leave(seconds, hand_over=hand_over))
        while not leaving.done():
            if self._stop() and seconds != STOPPED_LEAVE_SECONDS:
                seconds = STOPPED_LEAVE_SECONDS
                leaving.cancel()
                leaving = thread.spawn(peer.leave(seconds, hand_over=hand_over))
            peer.settle()
            peer.wait(LEAVE_LOOK_SECONDS)
        peer.settle()
        self._connection.network.report_end(leaving)
        if not leaving.cancelled() and leaving.exception() is None:
            self._farewell = leaving.result()
            self._screen.say("left", self._farewell.describe(), **self._farewell.model_dump())

    def finish(self, loop: Trained, peer: Peer, output: Path, seconds: float, tester: Tester | None) -> Summary:
        """Save and test the model, and show how good it is.

        Args:
            loop: that trained.
            peer: that has left.
            output: folder for the results.
            seconds: that the peer took part.
            tester: tests the model; None if there is nothing to test it on.

        Returns:
            The summary, which is in `summary.json` too.

        Raises:
            ConfigError: at the very end, if something could not be written.
        """
        manifest = self._connection.board.manifest
        assert manifest is not None, "a peer that took part in no run"
        stopped, centre = self._stop.requested, peer.centre_value()
        model, meter = loop.model, loop.meter
        unsaved = self._save_models(loop, centre, output)  # before anything that takes time
        impatient = self._impatient(model, time.monotonic() + STOPPED_TEST_SECONDS)
        result = None if tester is None else tester.test(self._stop, STOPPED_TEST_SECONDS)
        of_centre = None if centre is None or tester is None else tester.test_values(centre, impatient)
        summary = Summary(
            peer=peer.peer,
            run=manifest.run,
            task=manifest.task,
            manifest=manifest,
            stopped=stopped,
            steps=meter.step,
            seconds=seconds,
            test_accuracy=result.accuracy if result else None,
            test_metrics=dict(result.metrics) if result else {},
            test_loss=result.loss if result else None,
            validation_accuracy=meter.validation.accuracy if meter.validation else None,
            validation_metrics=dict(meter.validation.metrics) if meter.validation else {},
            training_loss=meter.loss,
            centre=peer.centre(),
            centre_test_accuracy=of_centre.accuracy if of_centre else None,
            centre_test_metrics=dict(of_centre.metrics) if of_centre else {},
            leaders=peer.leaders(),
            joining=peer.joining(),
            exchanges=peer.exchanges(),
            farewell=self._farewell,
            model=str(output / MODEL_FILE),
        )
        unsaved = unsaved or _attempt(lambda: save_summary(summary, output))
        self._connection.board.phase = "done"
        self._screen.progress(self._connection.board, now=True)
        self._say_goodbye(summary, saved=unsaved is None)
        if unsaved is not None:
            raise unsaved
        return summary

    def _impatient(self, model: nn.Module, end: float) -> Callable[[], bool]:
        """Stop testing the centre after Ctrl-C: at once if BatchNorm wants all data first, otherwise at `end`."""
        slow = bool(batchnorm_layers(model))
        return lambda: self._stop() and (slow or time.monotonic() > end)

    def _save_models(self, loop: Trained, centre: torch.Tensor | None, output: Path) -> ConfigError | None:
        """Save, and give back what was in the way of it: no reason not to show how good the model became."""

        def save() -> None:
            if not self._resumed:
                set_aside(output)
            save_model(loop.model, output)
            if centre is not None:
                save_model(loop.model, output, CENTRE_FILE, loop.vector.views(centre))

        return _attempt(save)

    def _say_goodbye(self, summary: Summary, *, saved: bool) -> None:
        self._screen.close()
        totals = summary.exchanges
        steps = "" if self._config.role == "centre" else f"{summary.steps} steps, "
        self._screen.say(
            "end",
            f"{'Stopped' if summary.stopped else 'Finished'} after {steps}{summary.seconds:.1f} s. "
            f"{_tested(summary)}Exchanges: {_counts(totals)}; "
            f"sent {size(totals.bytes_sent)}, received {size(totals.bytes_received)}."
            + (f"\nModel: {summary.model}" if saved else ""),
            **summary.model_dump(mode="json"),
        )


def _attempt(save: Callable[[], object]) -> ConfigError | None:
    """Do that, and give back what was in the way of it."""
    try:
        save()
    except ConfigError as error:
        return error
    return None


def _tested(summary: Summary) -> str:
    if summary.test_metrics:
        return f"Test {metrics_text(summary.test_metrics)}{_centre(summary)}. "
    if summary.test_loss is not None:
        return f"Test loss {summary.test_loss:.4g}. "
    measured = metrics_text(summary.validation_metrics)
    loss = "" if summary.training_loss is None else f"loss {summary.training_loss:.4g}"
    text = ", ".join(part for part in (loss, measured) if part)
    return f"{text[0].upper()}{text[1:]}. " if text else ""


def _centre(summary: Summary) -> str:
    if summary.centre is None:
        return ""
    values = [value_text(name, value) for name, value in summary.centre_test_metrics.items()]
    return f", of the centre variable {', '.join(values) or '-'}"


def _counts(totals: ExchangeTotals) -> str:
    return ", ".join(f"{n} {outcome.value}" for outcome, n in sorted(totals.by_outcome.items())) or "none"
