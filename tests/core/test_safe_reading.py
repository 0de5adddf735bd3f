"""A run's folder from a stranger: read within bounds, or refused with the file's name."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizers.core.safe_reading import MAX_DEPTH, read_entry, read_object
from sgt_modules.errors import RunFolderError


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


def test_an_object_is_read_as_it_is_and_a_file_that_is_not_there_is_none(home: Path) -> None:
    content = {"settings": {"seed": 0, "recipe": [1.5, None, True, "ü"]}}
    (home / "run.json").write_text(json.dumps(content), encoding="utf-8")
    assert read_object(home / "run.json", home=home) == content
    assert read_object(home / "none.json", home=home) is None


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is no JSON"),
        (b"{", "is no JSON"),
        (b"[]", "should hold a JSON object, not a list"),
        (b"null", "should hold a JSON object, not a NoneType"),
        (b"\xff\xfe", "is no JSON"),
        (b'{"a": NaN}', "NaN is no number of JSON"),
        (b'{"a": [-Infinity]}', "-Infinity is no number"),
        (b'{"a": 1e999}', "1e999 is no finite number"),
        (b'{"a": ' + b"1" * 5000 + b"}", "is no JSON"),
        (b'{"a": "\\ud800"}', "is no JSON"),
        (b'{"\\ud800": 1}', "is no JSON"),
        (b'{"a":' * 70 + b"1" + b"}" * 70, f"more than {MAX_DEPTH} levels"),
        (b'{"a":' * 200_000, "is no JSON"),
        (b"[" * 200_000, "is no JSON"),
    ],
)
def test_what_is_no_object_of_json_is_refused_with_the_file_s_name(home: Path, content: bytes, reason: str) -> None:
    (home / "run.json").write_bytes(content)
    with pytest.raises(RunFolderError, match=rf"run\.json .*{reason}"):
        read_object(home / "run.json", home=home)


def test_a_link_out_of_the_folder_is_not_followed_and_one_within_is(home: Path) -> None:
    (home.parent / "secret.json").write_text('{"key": 1}')
    (home / "run.json").symlink_to(home.parent / "secret.json")
    with pytest.raises(RunFolderError, match="leads out of its folder"):
        read_object(home / "run.json", home=home)
    (home / "inner.json").write_text("{}")
    (home / "spent.json").symlink_to("inner.json")
    assert read_object(home / "spent.json", home=home) == {}
    (home.parent / "also").symlink_to(home)
    assert read_object(home.parent / "also" / "inner.json", home=home.parent / "also") == {}


@pytest.mark.parametrize("target", ["nowhere", "run.json"])
def test_a_link_to_nothing_or_to_itself_is_refused(home: Path, target: str) -> None:
    (home / "run.json").symlink_to(target)
    with pytest.raises(RunFolderError, match=r"cannot be read|is no"):
        read_object(home / "run.json", home=home)


def test_a_gigabyte_is_refused_by_its_size_and_not_read(home: Path) -> None:
    with (home / "run.json").open("wb") as file:
        file.truncate(2**30)
    began = time.perf_counter()
    with pytest.raises(RunFolderError, match="is larger than 67108864 bytes"):
        read_object(home / "run.json", home=home)
    assert time.perf_counter() - began < 0.2


def test_a_pipe_a_device_and_a_folder_are_refused_and_nothing_waits(home: Path) -> None:
    os.mkfifo(home / "run.json")
    (home / "spent.json").mkdir()
    for name in ("run.json", "spent.json"):
        with pytest.raises(RunFolderError, match=r"is no regular file|cannot be read"):
            read_object(home / name, home=home)
    (home / "zero.json").symlink_to("/dev/zero")
    with pytest.raises(RunFolderError, match="leads out"):
        read_object(home / "zero.json", home=home)


@pytest.mark.parametrize(
    ("value", "kind"), [("1", int), (True, int), (None, float), ([], dict), ({}, list), (1, str), (1.5, int)]
)
def test_a_field_of_another_kind_is_refused_and_what_is_missing_has_its_default(value: object, kind: type) -> None:
    with pytest.raises(RunFolderError, match=r"spent\.json should hold .* as 'it'"):
        read_entry({"it": value}, "it", kind, kind(), file=Path("spent.json"))
    assert read_entry({}, "it", kind, kind(), file=Path("spent.json")) == kind()


def test_a_whole_number_will_do_where_any_is_wanted() -> None:
    assert read_entry({"it": 3}, "it", float, 0.0, file=Path("spent.json")) == 3


@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_any_bytes_are_an_object_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("any", numbered=True)
    (folder / "run.json").write_bytes(content)
    with suppress(RunFolderError):
        assert isinstance(read_object(folder / "run.json", home=folder), dict)
