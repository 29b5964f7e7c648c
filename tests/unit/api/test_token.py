from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from p2p_elastic.api.token import LENGTH_MAX, default_path, load_or_create
from p2p_elastic.errors import ConfigError


def written(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def refusal(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_or_create(path)
    assert (caught.value.key, caught.value.got) == ("http-token-file", str(path))
    return caught.value.allowed


def test_a_new_token_is_long_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "token"
    before = os.umask(0)
    try:
        token, created = load_or_create(path)
    finally:
        os.umask(before)
    assert created
    assert len(token) >= 43  # 256 bits
    assert mode_of(path) == 0o600
    assert [mode_of(folder) for folder in (path.parent, path.parent.parent)] == [0o700] * 2
    assert list(path.parent.iterdir()) == [path]


def test_a_token_stays_what_it_is(tmp_path: Path) -> None:
    token, _ = load_or_create(tmp_path / "token")
    assert load_or_create(tmp_path / "token") == (token, False)
    assert load_or_create(tmp_path / "other")[0] != token


def test_a_token_of_ones_own_may_end_with_a_new_line_or_not_and_may_be_linked_to(tmp_path: Path) -> None:
    for index, end in enumerate((b"", b"\n", b"\r\n")):
        path = written(tmp_path / f"{index}", b"sixteen-or-more!" + end)
        assert load_or_create(path) == ("sixteen-or-more!", False)
    (tmp_path / "link").symlink_to(path)
    assert load_or_create(tmp_path / "link") == ("sixteen-or-more!", False)
    longest = written(tmp_path / "longest", b"x" * LENGTH_MAX + b"\r\n", mode=0o400)
    assert load_or_create(longest) == ("x" * LENGTH_MAX, False)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"fifteen-of-them",
        b"x" * 513,
        b"x" * 100_000,
        b"two lines of it\nthe second",
        b"a token with spaces",
        b"a-token-of-sixteen\n\n",
        "a-token-with-an-é".encode(),
        b"a-token-with-a-\x00",
        b"\xff" * 20,
    ],
)
def test_what_is_no_token_is_refused_and_not_repeated(tmp_path: Path, content: bytes) -> None:
    allowed = refusal(written(tmp_path / "token", content))
    assert "16 to 512" in allowed
    assert not content.strip() or content.decode(errors="replace")[:10] not in allowed
    assert (tmp_path / "token").read_bytes() == content


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o610, 0o666])
def test_a_file_that_others_can_use_is_refused_with_what_to_do(tmp_path: Path, mode: int) -> None:
    path = written(tmp_path / "token", b"sixteen-or-more!", mode)
    assert f"chmod 600 {path}" in refusal(path)


def test_what_is_no_file_or_cannot_be_written_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    assert "regular file" in refusal(tmp_path / "pipe")
    assert "directory" in refusal(tmp_path)
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    assert "No such file" in refusal(tmp_path / "dangling")
    assert "Not a directory" in refusal(written(tmp_path / "file", b"") / "token")
    assert {path.name for path in tmp_path.iterdir()} == {"pipe", "dangling", "file"}


def test_peers_that_start_at_once_agree(tmp_path: Path) -> None:
    path, count = tmp_path / "state" / "token", 8
    together, results = threading.Barrier(count), []

    def start() -> None:
        together.wait(5)
        results.append(load_or_create(path))

    threads = [threading.Thread(target=start) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert len(results) == count
    assert len({token for token, _ in results}) == 1
    assert sum(created for _, created in results) == 1
    assert list(path.parent.iterdir()) == [path]


def test_the_usual_place_is_the_state_folder_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    for state in ("", "not/absolute"):
        monkeypatch.setenv("XDG_STATE_HOME", state)
        assert default_path() == Path("/home/somebody/.local/state/p2p-elastic/http-token")
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert default_path() == Path("/state/p2p-elastic/http-token")


def test_a_user_without_a_home_has_to_name_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(ConfigError, match="http-token-file"):
        default_path()
