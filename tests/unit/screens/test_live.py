"""What people and programs see while a peer runs."""

from __future__ import annotations

import errno
import io
import json
import math
import os
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from p2p_elastic.protocol.outcome import Outcome
from p2p_elastic.screens.live import Every, JsonScreen, LastingScreen, PanelScreen, Screen, TextScreen, open_screen
from p2p_elastic.screens.peer import one_line, panel, time_left
from p2p_elastic.screens.units import percent, short, size
from p2p_elastic.status.schema import (
    BootstrapStatus,
    CentreStatus,
    ExchangeRecord,
    ExchangeTotals,
    MemberStatus,
    NetworkStatus,
    PartitionStatus,
    PeerStatus,
    TrainingStatus,
)

PEER, PARTNER = "12D3KooWAliceAlic3", "12D3KooWBobBobBob5"


def member(peer: str = PARTNER, **facts: Any) -> MemberStatus:
    values = {"addresses": (), "state": "alive", "step": 90, "loss": 1.25, "age_seconds": 1.0}
    return MemberStatus(peer=peer, **{**values, **facts})


def exchange(partner: str = PARTNER, **facts: Any) -> ExchangeRecord:
    values = {"id": "x", "initiated": True, "outcome": Outcome.COMPLETED, "step": 90, "seconds": 0.1}
    numbers = {"bytes_sent": 1, "bytes_received": 1, "age_seconds": 4.0}
    return ExchangeRecord(partner=partner, **{**values, **numbers, **facts})


def status_of(*, training: dict[str, Any] | None = None, **changes: Any) -> PeerStatus:
    values: dict[str, Any] = {
        "peer": PEER,
        "version": "0.1.0",
        "run": "digits-1",
        "task": "digits",
        "schema_hash": "0" * 32,
        "rule": "elastic-gossip",
        "codec": "none",
        "device": "cpu",
        "uptime_seconds": 12.0,
        "weight": 1.0,
        "training": TrainingStatus(
            **{
                "phase": "training",
                "step": 120,
                "steps_total": 400,
                "epoch": 2.5,
                "steps_per_second": 33.25,
                "loss": 0.4321,
                "validation_accuracy": 0.9125,
                **(training or {}),
            }
        ),
        "exchanges": ExchangeTotals(
            by_outcome={Outcome.COMPLETED: 7, Outcome.DECLINED: 2, Outcome.TIMEOUT: 1, Outcome.HALF: 3},
            bytes_sent=1_500_000,
            bytes_received=2_500,
        ),
        "last_exchanges": (exchange(),),
        "members": (member(),),
        "network": NetworkStatus(attached=True),
    }
    return PeerStatus(**{**values, **changes})


def strict(line: str) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    parsed = json.loads(line, parse_constant=refuse)
    assert isinstance(parsed, dict)
    return parsed


def shown(status: PeerStatus) -> str:
    console = Console(record=True, width=100, file=io.StringIO())
    console.print(panel(status))
    return console.export_text()


# ---------------------------------------------------------------- JSON


def test_each_line_of_json_is_one_object_with_event_and_time() -> None:
    stream = io.StringIO()
    screen = JsonScreen(stream, clock=lambda: 1234.56789)
    screen.say("founded", "Founded\nrün", manifest={"run": "digits-1"})
    screen.progress(status_of, now=True)
    screen.close()
    said, progress = map(strict, stream.getvalue().splitlines())
    assert said == {"event": "founded", "time": 1234.568, "text": "Founded\nrün", "manifest": {"run": "digits-1"}}
    assert (progress["event"], progress["time"]) == ("progress", 1234.568)
    assert (progress["step"], progress["steps_total"], progress["loss"]) == (120, 400, 0.4321)
    assert (progress["members"], progress["health"]) == (1, "ok")
    assert progress["exchanges"]["by_outcome"] == {"completed": 7, "declined": 2, "timeout": 1, "half": 3}
    assert progress["exchanges"]["bytes_sent"] == 1_500_000


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_is_still_valid_json(loss: float) -> None:
    stream = io.StringIO()
    JsonScreen(stream).progress(lambda: status_of(training={"loss": loss}), now=True)
    line = strict(stream.getvalue())
    assert line["health"] == "degraded"
    assert not isinstance(line["loss"], float)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_fact_that_is_no_number_is_still_valid_json(loss: float) -> None:
    stream = io.StringIO()
    JsonScreen(stream).say("end", "Finished", training_loss=loss, exchanges={"seconds": [loss]})
    assert strict(stream.getvalue())["event"] == "end"


# ---------------------------------------------------------------- plain lines


def test_plain_lines_say_what_people_are_told() -> None:
    stream = io.StringIO()
    screen = TextScreen(stream)
    screen.say("founded", "Founded run [digits-1]", manifest={})
    screen.progress(status_of, now=True)
    screen.close()
    said, progress = stream.getvalue().splitlines()
    assert said == "Founded run [digits-1]"
    assert progress == one_line(status_of())


def test_one_line_has_the_facts() -> None:
    line = one_line(status_of())
    for fact in ("120/400", "epoch 2.5", "33.2 steps/s", "loss 0.4321", "7 ok", "2 declined", "4 failed", "1.5 MB"):
        assert fact in line
    assert "\n" not in line
    assert line.endswith("health ok")


def test_one_line_says_when_something_is_wrong() -> None:
    assert one_line(status_of(training={"loss": math.nan})).endswith("health degraded")


def test_the_screen_says_who_vanished_together() -> None:
    split = PartitionStatus(lost=3, before=5, away=3, left=2, seconds=12.0, steps=40)
    line = "partition: 3 away, 2 left for 12 s, 40 steps"
    assert f" {line} health degraded" in one_line(status_of(partition=split))
    assert line in shown(status_of(partition=split))
    assert "partition" not in one_line(status_of())


def test_one_line_before_anything_is_known() -> None:
    line = one_line(status_of(training={"step": 0, "loss": None, "steps_per_second": None}))
    assert "- steps/s loss -" in line


def test_who_only_holds_the_centre_is_not_shown_as_training() -> None:
    def holding(*, here: bool) -> PeerStatus:
        centre = CentreStatus(holder=PEER if here else PARTNER, here=here, term=1, exchanges=9)
        return status_of(training={"phase": "holding", "step": 0, "loss": None}, centre=centre)

    for text in (one_line(holding(here=True)), shown(holding(here=True))):
        assert "does not train, holds the centre variable" in text
        assert "step 0" not in text
    assert "does not train, stands by for the centre variable" in one_line(holding(here=False))


@pytest.mark.parametrize(
    ("training", "text"),
    [
        ({}, "about 8 s left"),
        ({"steps_per_second": 0.01}, "about 7.8 h left"),
        ({"steps_per_second": 0.5}, "about 9 min left"),
        ({"steps_per_second": 0.0}, ""),
        ({"steps_per_second": 1e-308}, ""),
        ({"steps_per_second": None}, ""),
        ({"steps_total": None}, ""),
        ({"step": 400}, ""),
        ({"phase": "finishing"}, ""),
    ],
)
def test_how_long_it_still_takes(training: dict[str, Any], text: str) -> None:
    status = status_of(training=training)
    assert time_left(status.training) == text
    assert text in shown(status)
    assert ("left" in shown(status)) is bool(text)


# ---------------------------------------------------------------- how often


def screens(stream: io.StringIO) -> list[Screen]:
    return [JsonScreen(stream), TextScreen(stream), PanelScreen(Console(file=stream, width=100))]


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_progress_asks_for_the_status_only_as_often_as_it_shows_it(kind: int) -> None:
    asked: list[int] = []

    def status() -> PeerStatus:
        asked.append(1)
        return status_of()

    screen = screens(io.StringIO())[kind]
    screen.progress(status)
    screen.progress(status)
    assert len(asked) == 1
    screen.progress(status, now=True)
    assert len(asked) == 2
    screen.close()


def test_every_is_true_at_most_once_per_so_many_seconds() -> None:
    times = iter([0.0, 0.5, 4.9, 5.0, 5.1, 30.0, 34.9, 35.0])
    every = Every(5.0, clock=lambda: next(times))
    assert [every() for _ in range(8)] == [True, False, False, True, False, True, False, True]


# ---------------------------------------------------------------- panel


def test_the_panel_has_the_facts() -> None:
    text = shown(status_of())
    facts = ("digits-1", "digits", short(PEER), "training", "120/400", "2.5", "33.2", "0.4321", "91.25 %")
    exchanges = ("completed 7", "declined 2", "timeout 1", "half 3", "sent 1.5 MB", "received 2.5 kB")
    partner = (short(PARTNER), "alive", "90", "1.2500", "completed 4 s ago")
    assert [fact for fact in facts + exchanges + partner if fact not in text] == []
    assert all(len(line) <= 100 for line in text.splitlines())


def test_the_panel_at_the_end_of_training_still_has_the_facts() -> None:
    text = shown(status_of(training={"step": 400}))
    assert [fact for fact in ("400/400", "0.4321", "91.25 %") if fact not in text] == []


def test_the_panel_shows_the_newest_exchange_with_each_partner() -> None:
    newest_first = (exchange(outcome=Outcome.TIMEOUT, age_seconds=1.0), exchange(age_seconds=9.0))
    text = shown(status_of(last_exchanges=newest_first))
    assert "timeout 1 s ago" in text
    assert "9 s ago" not in text


def test_the_panel_of_a_lone_peer_that_has_not_begun() -> None:
    text = shown(
        status_of(
            training={"phase": "waiting", "step": 0, "steps_total": None, "loss": None, "steps_per_second": None},
            exchanges=ExchangeTotals(),
            last_exchanges=(),
            members=(),
        )
    )
    for fact in ("waiting", "none yet", "nobody else yet"):
        assert fact in text


def test_the_panel_gives_every_reason_for_not_being_well() -> None:
    refused = NetworkStatus(bootstrap=(BootstrapStatus(address="/ip4/10.0.0.2/tcp/1", problem="refused"),))
    text = shown(status_of(training={"loss": math.nan}, network=refused))
    assert "loss_not_finite" in text
    assert "bootstrap_unreachable" in text


def test_the_panel_of_a_large_swarm_stays_small() -> None:
    many = tuple(member(f"12D3KooWmember{number:04}") for number in range(300))
    text = shown(status_of(members=many))
    assert "and 292 more" in text
    assert len(text.splitlines()) < 20


def test_a_command_that_is_said_can_be_copied_from_a_narrow_terminal() -> None:
    stream, command = io.StringIO(), f"    p2p-elastic join --initial-peer /ip4/10.0.0.1/tcp/1/p2p/{'1' * 52}"
    screen = PanelScreen(Console(file=stream, width=40))
    screen.say("joinable", f"others join with:\n{command}")
    assert command in stream.getvalue().splitlines()


def test_warnings_stand_apart_from_what_is_merely_said() -> None:
    stream = io.StringIO()
    screen = PanelScreen(Console(file=stream, width=100, force_terminal=True, color_system="standard"))
    screen.say("log", "warning: B is dead", level="warning")
    screen.say("log", "info: exchange with B", level="info")
    assert stream.getvalue() == "\x1b[33mwarning: B is dead\x1b[0m\ninfo: exchange with B\n"


def test_the_panel_is_alarmed_by_failures_of_the_last_minutes_only() -> None:
    for lately in (2, 0):
        totals = ExchangeTotals(by_outcome={Outcome.TIMEOUT: 7}, failed_lately=lately)
        said = shown(status_of(exchanges=totals))
        assert "timeout 7" in said
        assert ("2 failed in the last 5 min" in said) == (lately > 0)


def test_the_panel_fits_80_columns() -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(panel(status_of(training={"step": 18324, "steps_total": 100_000, "epoch": 469.8})))
    facts = "step 18324/100000  epoch 469.8  33.2 steps/s  loss 0.4321  accuracy 91.25 %"
    assert facts in console.export_text()


def test_the_panel_tells_members_that_are_drained() -> None:
    assert "drained" in shown(status_of(members=(member(drained=True),)))


def test_the_last_panel_stays_on_the_screen_and_what_was_said_is_above_it() -> None:
    stream = io.StringIO()
    screen = PanelScreen(Console(file=stream, width=100))
    screen.progress(status_of)
    screen.say("joined", "Joined run [digits-1]")
    screen.progress(lambda: status_of(training={"step": 399}), now=True)
    screen.close()
    screen.close()
    text = stream.getvalue()
    assert text.index("Joined run [digits-1]") < text.index("399/400")
    assert text.count("399/400") == 1


# ---------------------------------------------------------------- which screen


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


Stream = Callable[[], io.StringIO]


@pytest.mark.parametrize(
    ("log_format", "stream", "screen"),
    [
        ("auto", Terminal, PanelScreen),
        ("auto", io.StringIO, TextScreen),
        ("text", Terminal, TextScreen),
        ("json", Terminal, JsonScreen),
        ("json", io.StringIO, JsonScreen),
    ],
)
def test_the_panel_is_for_terminals_only(log_format: str, stream: Stream, screen: type) -> None:
    assert isinstance(open_screen(log_format, stream()), screen)


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (123_456, "123.5 kB"),
        (999_999, "1.0 MB"),
        (1_000_000, "1.0 MB"),
        (2_500_000_000, "2.50 GB"),
        (5e12, "5000.00 GB"),
    ],
)
def test_sizes_are_in_decimal_units(nbytes: float, text: str) -> None:
    assert size(nbytes) == text


def test_shares_are_in_percent() -> None:
    assert [percent(share) for share in (None, 0.0, 0.12345, 1.0)] == ["-", "0.00 %", "12.35 %", "100.00 %"]


class Failing(TextScreen):
    """Its stream fails."""

    def __init__(self, error: OSError) -> None:
        super().__init__(io.StringIO())
        self._error = error

    def say(self, event: str, text: str, **facts: object) -> None:
        raise self._error

    def close(self) -> None:
        raise self._error


@pytest.mark.parametrize(("number", "asked"), [(errno.ENOSPC, 0), (errno.EIO, 0), (errno.EPIPE, 3)])
def test_a_log_that_cannot_be_written_ends_no_training_and_one_that_nobody_reads_lets_it_finish(
    number: int, asked: int
) -> None:
    asks = list[None]()
    screen = LastingScreen(Failing(OSError(number, os.strerror(number))), lambda: asks.append(None))
    screen.say("loading", "Loading ...")
    screen.progress(status_of, now=True)
    screen.close()
    assert (len(asks), screen.unread) == (asked, asked > 0)


def test_metrics_are_shown_by_their_names_and_only_shares_in_percent() -> None:
    training = {"validation_accuracy": None, "metrics": {"perplexity": 23.12, "f1": 0.5}}
    status = status_of(training=training)
    assert " perplexity 23.12, f1 50.00 % members " in one_line(status)
    assert "accuracy" not in one_line(status)
    assert "perplexity 23.12" in shown(status)


def test_what_nobody_measures_is_not_shown() -> None:
    assert "loss 0.4321 members" in one_line(status_of(training={"validation_accuracy": None}))
