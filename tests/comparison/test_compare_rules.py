"""The comparison on house rules: its contenders are SPT's, and nothing is paid for twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from optimizers.cli import main
from optimizers.demos.house_rules_comparison import RULES_CONTENDERS, compare_rules


@pytest.mark.slow
def test_spt_is_compared_with_no_change_within_its_budget_and_goes_on_without_calls(tmp_path: Path) -> None:
    found = compare_rules(
        ["none", "spt_pc"], seeds=[0], quick=True, budget=400, log_dir=tmp_path, display_progress=False
    )
    rows = {row.name: row for row in found.rows}
    assert set(rows) == {"none", "spt_pc"}
    again = compare_rules(
        ["none", "spt_pc"], seeds=[0], quick=True, budget=400, log_dir=tmp_path, display_progress=False
    )
    assert again.content() == found.content()
    assert (rows["spt_pc"].gain or 0) > 0
    assert rows["spt_pc"].compiling.actor_calls <= 400


def test_every_form_of_spt_is_a_contender() -> None:
    assert set(RULES_CONTENDERS) == {"none", "spt_p", "spt_pc", "spt_p_without_impact", "spt_pc_without_impact"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--task embedded-spt --gold", "about supplements"),
        ("--task embedded-spt --controls", "about supplements"),
        ("--controls --page page.html", "an HTML page has no controls"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    options: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["sgt", "compare", *options.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
