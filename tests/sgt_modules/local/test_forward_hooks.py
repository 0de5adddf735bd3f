"""The activity of a model at work, and cancelling it in the middle of a pass, forwards or backwards."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from families import FAMILIES, family_model
from sample_requests import requests
from transformers import AutoModelForCausalLM

from sgt_modules.local import activity
from sgt_modules.local.activity import list_activities
from sgt_modules.local.cancellation import WorkCancelled, cancel_when, check_cancelled
from sgt_modules.local.engine import LocalEngine
from sgt_modules.local.forward_hooks import check_during_passes, list_layer_parts
from sgt_modules.local.work_progress import Activity
from sgt_modules.samples import SampleRequest


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return family_model(FAMILIES["SmolLM2"], tmp_path_factory.mktemp("models") / "tiny-model")


class Recorder:
    """A reason to cancel that records the activities at each call, and cancels once it has `stop_at` of them."""

    def __init__(self, stop_at: int = 10**9) -> None:
        self.seen: list[Activity] = []
        self._stop_at = stop_at

    def __call__(self) -> str:
        self.seen += list_activities()
        return "enough" if len(self.seen) >= self._stop_at else ""


def test_an_activity_has_the_model_s_name_its_phase_and_the_share_that_is_done(folder: Path) -> None:
    recorder, engine = Recorder(), LocalEngine(folder, max_new_tokens=8)
    with cancel_when(recorder):
        engine.sample(requests(["Is 1 odd?", "Is 22 odd?", "And 333?"], seeds=[1, 2, 3]))
    assert {each.model for each in recorder.seen} == {"tiny-model"}
    order = [each.phase for each in recorder.seen]
    assert sorted(set(order), key=order.index) == ["reading", "writing"]
    shares = [each.share for each in recorder.seen]
    assert shares == sorted(shares)
    assert 0.5 < shares[-1] <= 1.0
    assert {each.rows for each in recorder.seen} == {3}
    assert list_activities() == []


def test_cancelling_ends_the_batch_of_a_caller_and_the_engine_works_after_it(folder: Path) -> None:
    engine = LocalEngine(folder, max_new_tokens=8)
    with pytest.raises(WorkCancelled, match="enough"), cancel_when(Recorder(stop_at=4)):
        engine.sample(requests(["Is 1 odd?"], seeds=[1]))
    assert list_activities() == []
    assert len(engine.sample(requests(["Is 1 odd?"], seeds=[1]))) == 1


def test_cancelling_ends_all_requests_in_the_queue(folder: Path) -> None:
    engine = LocalEngine(folder, max_new_tokens=200)
    ended: list[BaseException] = []

    def ask(number: int) -> None:
        try:
            engine.ask(SampleRequest(f"Is {number} odd?", seed=number))
        except WorkCancelled as reason:
            ended.append(reason)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(40)]  # more than a batch
    with cancel_when(Recorder(stop_at=10)):
        for each in threads:
            each.start()
        for each in threads:
            each.join(10)
    assert [str(each) for each in ended] == ["enough"] * 40
    assert engine.ask(SampleRequest("Is 1 odd?", max_new_tokens=2)).tokens == 2


@pytest.fixture
def trained(folder: Path) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(folder).train()


@pytest.mark.parametrize("backwards", [False, True])
def test_cancelling_ends_a_training_step_in_its_middle(trained: torch.nn.Module, backwards: bool) -> None:
    ids = torch.arange(10)[None]
    asked: list[bool] = []
    with (
        cancel_when(lambda: asked.append(True) or ("enough" if len(asked) == 3 else "")),
        check_during_passes(trained, check_cancelled),
    ):
        if backwards:
            asked += [False] * 100
            loss = cast("Any", trained)(ids, labels=ids).loss
            asked[:] = []
            with pytest.raises(WorkCancelled, match="enough"):
                loss.backward()
        else:
            with pytest.raises(WorkCancelled, match="enough"):
                trained(ids, labels=ids)
    assert len(asked) == 3
    assert not any(part._forward_pre_hooks for part in list_layer_parts(trained.get_decoder()))


def test_a_model_that_is_being_loaded_is_listed() -> None:
    assert not activity.is_loading()
    with activity.track_loading("some-model"):
        assert activity.is_loading()
        assert [(each.model, each.phase) for each in list_activities()] == [("some-model", "loading")]
