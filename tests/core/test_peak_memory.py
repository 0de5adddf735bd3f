"""What memory a span of work held, on this machine and on one whose system keeps no such marks."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest
from scripted import rollout

from optimizers.comparison.summary import collect_peak_memory
from optimizers.core.peak_memory import HighWaterMark, Peak
from optimizers.core.records import Checkpoint
from optimizers.core.result import StageResult

SIZE = 64 * 2**20


def hold() -> None:
    """64 MB for a moment, of the system's own: an allocator might have some left."""
    with mmap.mmap(-1, SIZE) as pages:
        pages.write(b"1" * SIZE)


def test_a_peak_is_that_of_its_span_and_the_highest_is_of_all_of_them() -> None:
    mark = HighWaterMark()
    mark.restart()
    hold()
    large = mark.peak()
    mark.restart()
    small = mark.peak()
    assert mark.highest >= large.rss_mb > 64
    if not small.restarted:
        pytest.skip("this system cannot restart its mark")
    assert small.rss_mb <= large.rss_mb - 60


def test_where_the_system_cannot_restart_its_mark_a_peak_says_so(tmp_path: Path) -> None:
    mark = HighWaterMark(tmp_path / "nowhere")
    mark.restart()
    peak = mark.peak()
    assert not peak.restarted
    assert peak.rss_mb > 64


def test_a_read_only_process_folder_still_tells_the_high_water_mark(tmp_path: Path) -> None:
    (tmp_path / "status").write_text("Name:\tpython\nVmHWM:\t  204800 kB\nVmRSS:\t 1024 kB\n")
    (tmp_path / "clear_refs").mkdir()
    mark = HighWaterMark(tmp_path)
    mark.restart()
    assert mark.peak() == Peak(200.0, None, restarted=False)


def test_the_summary_tells_each_stages_peak_and_a_gpus_only_where_one_was_used() -> None:
    stages = [StageResult(name, 0.5, [rollout(1.0)], memory=Peak(100.0 + n)) for n, name in enumerate(("none", "sft"))]
    assert collect_peak_memory(stages) == {"rss": {"none": 100.0, "sft": 101.0}}
    stages.append(StageResult("dpo1", 0.5, [], memory=Peak(90.0, 12.5)))
    assert collect_peak_memory(stages)["cuda"] == {"dpo1": 12.5}


def test_a_stage_tells_how_many_rows_were_left_out(tmp_path: Path) -> None:
    trained = Checkpoint("sft", tmp_path, "", {"dropped": 3})
    assert StageResult("sft", 0.5, [], trained).dropped == 3
    assert StageResult("none", 0.5, []).dropped == 0
