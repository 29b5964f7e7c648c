from __future__ import annotations

import io
from pathlib import Path

from p2p_elastic.screens.live import JournalScreen, TextScreen, in_journal, open_screen


def test_an_event_is_one_line_with_its_priority() -> None:
    stream = io.StringIO()
    screen = JournalScreen(stream)
    screen.say("joinable", "others join with:\n    a\n    b")
    screen.say("log", "warning: c", level="warning")
    assert stream.getvalue() == "<6>others join with: | a | b\n<4>warning: c\n"


def test_only_the_stream_that_systemd_connected_is_the_journal(tmp_path: Path) -> None:
    with (tmp_path / "a").open("w") as stream:
        seen = (tmp_path / "a").stat()
        assert in_journal(stream, {"JOURNAL_STREAM": f"{seen.st_dev}:{seen.st_ino}"})
        assert not in_journal(stream, {"JOURNAL_STREAM": f"{seen.st_dev}:{seen.st_ino + 1}"})
        assert not in_journal(stream, {})
        assert type(open_screen("auto", stream)) is TextScreen
    assert not in_journal(io.StringIO(), {"JOURNAL_STREAM": "1:1"})
