"""`sgt export RUN --to hub`: the weights and their card arrive whole, and each refusal says where the weights are.

The hub's client reads its settings at import, so each upload runs in a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from scripted_hub import TOKEN, Hub, scripted_hub
from small_compile import compiled, helped

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    compiled(helped, folder)
    return folder


def export(
    run: Path, output: Path, *options: str, address: str, token: str = TOKEN, offline: str = "0"
) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "HF_ENDPOINT": address,
        "HF_TOKEN": token,
        "HF_HUB_OFFLINE": offline,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(output.parent / "hf"),
    }
    command = [
        str(Path(sys.executable).with_name("sgt")),
        "export",
        str(run),
        "--stage",
        "dpo1",
        "--output",
        str(output),
    ]
    return subprocess.run([*command, *options], env=environment, capture_output=True, text=True, timeout=300)


def test_an_adapter_arrives_with_its_card_in_a_private_repository(run: Path, tmp_path: Path) -> None:
    with scripted_hub() as hub:
        done = export(
            run, tmp_path / "out", "--to", "hub", "--repo", "me/notes", "--licence", "mit", address=hub.address
        )
        assert done.returncode == 0, done.stderr
        assert f"Uploaded to {hub.address}/me/notes" in done.stdout.replace("\n", " ")
        assert hub.private == {"me/notes": True}
        local = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
        assert hub.files["me/notes"] == local
        assert {"adapter_model.safetensors", "adapter_config.json", "README.md", "trained_from.json"} <= set(local)
        card = local["README.md"].decode()
        assert "license: mit" in card
        assert "data_sha256" in card
        assert json.loads(local["adapter_config.json"])["base_model_name_or_path"] == "sgt:generator"
        again = export(run, tmp_path / "more", "--to", "hub", "--repo", "me/notes", address=hub.address)
        assert again.returncode == 0, "a repository that exists takes another commit"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"token": "hf_wrong"}, "Log in with hf auth login"),
        ({"offline": "1"}, "HF_HUB_OFFLINE forbids it"),
        ({"address": "http://127.0.0.1:9"}, "cannot be reached"),
    ],
    ids=["wrong token", "offline", "unreachable"],
)
def test_a_refusal_says_why_and_where_the_weights_are(
    run: Path, tmp_path: Path, settings: dict[str, str], said: str
) -> None:
    with scripted_hub() as hub:
        to = {"address": hub.address, **settings}
        done = export(run, tmp_path / "out", "--to", "hub", "--repo", "me/notes", **to)
        text = " ".join(done.stderr.split())
        assert done.returncode == 2, done.stderr
        assert said in text
        assert "hf_wrong" not in text
        assert "Traceback" not in text
        assert (tmp_path / "out" / "adapter_model.safetensors").is_file()
        assert_nothing_arrived(hub)


LOG_IN = "Log in with hf auth login or set HF_TOKEN to a token that may write there."
LATER = "Upload later with hf upload me/notes FOLDER --private."


@pytest.mark.parametrize(
    ("status", "advised"), [(403, [LOG_IN]), (404, [LOG_IN]), (429, [LATER]), (503, [LATER]), (400, [])]
)
def test_a_log_in_is_advised_where_it_may_help_and_time_where_that_may(
    run: Path, tmp_path: Path, status: int, advised: list[str]
) -> None:
    output = tmp_path / "out"
    with scripted_hub(fails=status) as hub:
        done = export(run, output, "--to", "hub", "--repo", "me/notes", address=hub.address)
    said = " ".join(done.stderr.split()).replace(str(output), "FOLDER")
    assert done.returncode == 2, said
    assert "does not take weights for 'me/notes'" in said
    assert [each for each in (LOG_IN, LATER) if each in said] == advised
    assert "The weights are in FOLDER." in said


def assert_nothing_arrived(hub: Hub) -> None:
    assert hub.commits == 0
    assert hub.files.get("me/notes", {}) == {}


def test_a_wrong_name_is_refused_before_anything_is_written(run: Path, tmp_path: Path) -> None:
    for options in (["--to", "hub"], ["--to", "hub", "--repo", "no owner"], ["--to", "adapter", "--repo", "me/notes"]):
        done = export(run, tmp_path / "out", *options, address="http://127.0.0.1:9")
        assert done.returncode == 2
        assert "--repo" in done.stderr
    assert not (tmp_path / "out").exists()
