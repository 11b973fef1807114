"""Views on disk: whole or not at all."""

import logging
from pathlib import Path

import pytest

from protos.registry.v1 import registry_pb2 as pb
from registry_client.cache import ViewFile, default_dir
from registry_client.instance import Instance
from registry_client.view import View

QUESTION = pb.WatchRequest(namespace="default", services=["player"])
PLAYER = Instance(
    "player", "h", 1, id="p1", namespace="default", revision=7, create_revision=3, generation=2, ttl_s=15.0
)
VIEW = View({PLAYER.key: PLAYER}, "e1", 7, None)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    ViewFile(tmp_path / "new" / "folder", ["h:1"], QUESTION).write(VIEW, "token", 100.0)
    saved = ViewFile(tmp_path / "new" / "folder", ["h:1"], QUESTION).read(130.0)
    assert saved is not None
    assert (saved.view.by_key, saved.view.epoch, saved.view.revision) == (VIEW.by_key, "e1", 7)
    assert (saved.token, saved.age_s) == ("token", 30.0)
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == [
        ViewFile(tmp_path, ["h:1"], QUESTION).path.name
    ]
    assert (tmp_path / "new" / "folder").stat().st_mode & 0o077 == 0


def test_each_question_has_a_file_of_its_own(tmp_path: Path) -> None:
    others = [
        pb.WatchRequest(namespace="prod", services=["player"]),
        pb.WatchRequest(namespace="default", services=["player", "chat"]),
        pb.WatchRequest(namespace="default", services=["player"], filter=pb.Filter(tags=["eu"])),
    ]
    paths = {ViewFile(tmp_path, ["h:1"], question).path for question in (QUESTION, *others)}
    paths.add(ViewFile(tmp_path, ["h:2"], QUESTION).path)
    assert len(paths) == 5
    assert ViewFile(tmp_path, ["a", "b"], QUESTION).path == ViewFile(tmp_path, ["b", "a"], QUESTION).path


def test_nothing_there_is_nothing_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert ViewFile(tmp_path, ["h:1"], QUESTION).read(0.0) is None
    assert not caplog.records


def test_a_later_view_is_not_replaced_by_an_earlier_one(tmp_path: Path) -> None:
    file = ViewFile(tmp_path, ["h:1"], QUESTION)
    file.write(VIEW, "later", 200.0)
    file.write(VIEW, "earlier", 100.0)
    saved = file.read(200.0)
    assert saved is not None
    assert saved.token == "later"


def test_a_clock_that_was_set_back_makes_nothing_younger_than_now(tmp_path: Path) -> None:
    file = ViewFile(tmp_path, ["h:1"], QUESTION)
    file.write(VIEW, "token", 200.0)
    saved = file.read(100.0)
    assert saved is not None
    assert saved.age_s == 0.0


def test_any_damage_is_noticed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = ViewFile(tmp_path, ["h:1"], QUESTION)
    file.write(VIEW, "token", 100.0)
    whole = file.path.read_bytes()
    damaged = [whole[:length] for length in range(len(whole))]
    damaged += [whole[:i] + bytes([whole[i] ^ 0xFF]) + whole[i + 1 :] for i in range(len(whole))]
    damaged += [whole + b"x", b"", b"something else entirely"]
    with caplog.at_level(logging.WARNING):
        for content in damaged:
            file.path.write_bytes(content)
            caplog.clear()
            assert file.read(100.0) is None
            assert "damaged" in caplog.text


def test_the_users_cache_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_dir() == tmp_path / "grpc-registry"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/to/be/ignored")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_dir() == tmp_path / ".cache" / "grpc-registry"
