"""A run's page: its figures by hand, hostile texts, what it may load, and how it does in a browser."""

from __future__ import annotations

import base64
import gzip
import json
import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from browser import chromium, opened
from run_folders import explored, met, run_folder, validated
from small_compile import compiled, helped

from optimizers.comparison.leaderboard import Row
from optimizers.comparison.result import Comparison
from optimizers.core.records import Rollout
from optimizers.observe.report import read_run, run_page, write_report
from optimizers.observe.report.figures import flipped, kind_shares, reward_by_length, stage_scores, success_by_kind
from optimizers.observe.report.payload import payload
from optimizers.observe.report.stage_rollouts import compact
from sgt_modules.errors import RunFolderError

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7777777*7 }}"


class Page(HTMLParser):
    """A page's elements, its text outside of scripts, and the data that it carries."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.scripts: list[str] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        (self.scripts if self._inside == "script" else self.texts).append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    @property
    def rollouts(self) -> dict[str, Any]:
        """The rollouts that the page carries, each column with its texts."""
        content = json.loads(gzip.decompress(base64.b64decode(self.scripts[0])))
        texts = content["texts"]
        named = ("stage", "split", "kind", "prompt", "supplement", "answer", "feedback", "error")
        return content | {name: [texts[number] for number in content[name]] for name in named}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


def page_of(folder: Path) -> Page:
    return Page(run_page(read_run(folder)))


def test_scores_by_stage_are_those_of_the_rollouts_with_intervals_and_what_turned() -> None:
    none, sft, dpo1 = stage_scores(list(compact(validated())), "val")
    assert [(each.stage, each.score, each.questions) for each in (none, sft, dpo1)] == [
        ("none", 0.25, 4),
        ("sft", 0.5, 4),
        ("dpo1", 0.75, 4),
    ]
    assert none.gain is None
    assert (sft.gain, sft.right, sft.wrong, sft.p_value) == (0.25, 1, 0, 1.0)
    assert (dpo1.gain, dpo1.right, dpo1.wrong, dpo1.p_value) == (0.5, 3, 1, 0.625)  # 2 * (1 + 4) / 2**4
    assert [round(end, 3) for end in none.interval] == [0.046, 0.699]  # Wilson's of 1 in 4


def test_a_question_without_a_reward_counts_nowhere_and_is_told() -> None:
    rollouts = [met("none/val", 0, 1.0), met("none/val", 1, 0.0), met("sft/val", 0, None), met("sft/val", 1, 1.0)]
    _, sft = stage_scores(list(compact(rollouts)), "val")
    assert (sft.score, sft.questions, sft.unanswered, sft.gain, sft.right) == (1.0, 1, 1, 1.0, 1)


def test_the_questions_that_turned_are_found_in_both_directions() -> None:
    found = list(compact(validated()))
    turned = flipped(found, "val", "dpo1")
    assert [(found[a].position, found[b].supplement) for a, b in turned.right] == [
        (0, "[pairs] dpo1 0"), (1, "[cot] dpo1 1"), (2, "[cot] dpo1 2"),
    ]  # fmt: skip
    assert [(found[a].stage, found[b].stage, found[b].position) for a, b in turned.wrong] == [("none", "dpo1", 3)]


def test_kinds_and_lengths_count_the_rewarded_rollouts() -> None:
    found = list(compact([*explored(), *validated()]))
    assert kind_shares(found, "val", ["none", "sft", "dpo1"]) == {
        "sft": {"cot": 0.75, "pairs": 0.25},
        "dpo1": {"cot": 0.75, "pairs": 0.25},
    }
    tried = [each for each in found if each.explored]
    assert [(each.name, each.runs, each.score) for each in success_by_kind(tried)] == [("cot", 2, 0.5), ("pairs", 1, 1)]
    lengths = [(each.name, each.runs, each.score) for each in reward_by_length([*found[:2], *tried])]
    assert lengths == [("0", 2, 0.0), ("11-15", 1, 1.0), ("16", 1, 1.0), ("17", 1, 0.0)]


def test_the_page_tells_scores_spend_rows_settings_and_how_to_repeat_it(tmp_path: Path) -> None:
    text = page_of(
        run_folder(tmp_path / "run", result={"selected": "dpo1", "notes": ["Round 2 learned nothing."]})
    ).text
    for told in (
        "0.250 \u2192 0.750", "3 right, 1 wrong", "1,234", "$0.25", "1 min 1 s", "inter 2, intra 1",
        "sgt demo --seed 7", "Round 2 learned nothing.", "dspy 3.4.1", "seed 7",
    ):  # fmt: skip
        assert told in text


def test_without_a_word_on_it_the_selected_stage_is_the_best_on_validation(tmp_path: Path) -> None:
    assert read_run(run_folder(tmp_path / "run")).selected == "dpo1"
    tie = [met("none/val", 0, 1.0), met("sft/val", 0, 1.0, text="x"), met("dpo1/val", 0, 1.0, text="y")]
    assert read_run(run_folder(tmp_path / "tie", tie)).selected == "none"
    gated = [*tie, met("gated/val", 0, 1.0)]
    assert read_run(run_folder(tmp_path / "gated", gated)).selected == "gated"


@pytest.mark.parametrize("rollouts", [[], [met("none/val", 0, 0.0)], [met("warm", 0, 1.0, kind="cot", text="x")]])
def test_a_run_that_has_only_begun_has_a_page(browser: Any, tmp_path: Path, rollouts: list[Rollout]) -> None:
    folder = run_folder(tmp_path / "run", rollouts, stages={}, spent={})
    shutil.rmtree(folder / "training")
    with opened(browser, write_report(folder)) as tab:
        assert tab.said == []
        assert tab.page.inner_text("#count").startswith(f"{len(rollouts)} shown")


def test_the_figures_are_of_the_test_set_where_the_selected_stage_was_tested(tmp_path: Path) -> None:
    bare = met("none/test", 0, 0.0)
    assert read_run(run_folder(tmp_path / "bare", [*validated(), bare])).split == "val"
    tested = run_folder(tmp_path / "tested", [*validated(), bare, met("dpo1/test", 0, 1.0, kind="cot", text="x")])
    assert read_run(tested).split == "test"
    assert "Score by stage, on the test set" in page_of(tested).text
    assert "0.000 \u2192 1.000" in page_of(tested).text


def test_a_run_that_rewrites_prompts_shows_them_and_both_answers(browser: Any, tmp_path: Path) -> None:
    rollouts = [
        met(f"{stage}/val", 0, score, answer=said) for stage, score, said in (("student", 0, "5"), ("round1", 1, "4"))
    ]
    impact = {"sentence": "Add.", "impact": 0.25, "low": -0.125, "high": 0.5}
    first = {"number": 1, "predictor": "self", "accepted": True, "chosen": 0, "train": [0.5, 0.75], "impact": [impact]}
    first |= {
        "diff": "-Add.\n+Add with care.",
        "candidates": [{"prompt": "Add with care.", "score": 1.0, "dropped": ""}],
    }
    second = {
        "number": 2,
        "predictor": "self",
        "chosen": None,
        "candidates": [{"prompt": "Add.", "dropped": "repeats"}],
    }
    run = {"id": "1", "settings": {"method": "spt", "corrector": "big"}}
    folder = run_folder(tmp_path / "run", rollouts, run=run, prompts={"rounds": [first, second]})
    text = page_of(folder).text
    for told in (
        "Supervisory Prompt Training, corrector big", "Round 1, self: accepted, 0.500 to 0.750 on the training set",
        "+Add with care.", "+0.250 -0.125..+0.500", "1.000 on the mistakes, best", "Round 2, self: no new candidate",
        "dropped: repeats", "the dashed line is the program as it came",
    ):  # fmt: skip
        assert told in text
    with opened(browser, write_report(folder)) as tab:
        before, after = (tab.page.inner_text(f".side >> nth={n}") for n in (0, 1))
        assert (before.split(), after.split()) == (
            ["Before", "lost,", "0", "Answer", "5"],
            ["After", "won,", "1", "Answer", "4"],
        )


def test_hostile_texts_are_shown_and_never_run(browser: Any, tmp_path: Path) -> None:
    rollouts = [
        met("none/val", 0, 0.0, prompt=HOSTILE, answer=HOSTILE),
        met("sft/val", 0, 1.0, kind=HOSTILE, text=HOSTILE, prompt=HOSTILE, answer=HOSTILE, feedback=HOSTILE),
        met(f"{HOSTILE}/val", 0, 1.0, text="x"),
    ]
    settings = {"seed": HOSTILE, "generator": HOSTILE, "recipe": {HOSTILE: HOSTILE}}
    run = {"id": "1", "settings": settings, "command": HOSTILE, "versions": {HOSTILE: HOSTILE}}
    rounds = [{"number": 1, "predictor": HOSTILE, "diff": HOSTILE, "candidates": [{"prompt": HOSTILE, "score": 1}]}]
    files = {"run": run, "result": {"notes": [HOSTILE]}, "prompts": {"rounds": rounds}}
    files["controls"] = {"rows": [{"name": HOSTILE, "skipped": HOSTILE}]}
    folder = run_folder(tmp_path / "run", rollouts, **files)
    page = page_of(folder)
    assert len(page.all("script")) == 2
    assert page.all("img") == []
    assert "54444439" not in page.text
    assert page.rollouts["supplement"][1].endswith(HOSTILE)
    with opened(browser, write_report(folder)) as tab:
        assert tab.page.inner_text("#detail pre >> nth=0") == "(none)"
        assert HOSTILE in tab.page.inner_text("#detail")
        assert (tab.said, tab.page.query_selector_all("#detail img, #list img")) == ([], [])


def test_the_page_may_load_nothing_and_its_own_script_only(tmp_path: Path) -> None:
    page = page_of(run_folder(tmp_path / "run"))
    [policy] = [each["content"] for each in page.all("meta") if each.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-")
    assert "unsafe" not in policy.partition("script-src")[2]
    loads = [
        each.get(name) for _, each in page.elements for name in ("src", "href", "action", "data") if each.get(name)
    ]
    assert all(each is not None and each.startswith(("#", "data:")) for each in loads)


@pytest.mark.slow
def test_a_compile_leaves_its_page_and_one_that_cannot_be_made_loses_no_run(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    better, _ = compiled(helped, folder)
    result, told = better.detailed_results, json.loads((folder / "result.json").read_text())
    assert told["selected"] == result.selected
    assert told["scores"] == {stage.name: stage.score for stage in result.stages}
    assert f"selected on validation {result.selected}" in page_of(folder).text
    (folder / "report.html").unlink()
    (folder / "report.html").mkdir()
    again, _ = compiled(helped, folder)
    assert again.detailed_results.selected == result.selected
    assert any("has no report" in note for note in again.detailed_results.notes)


@pytest.mark.parametrize("missing", ["run.json", "rollouts.sqlite"])
def test_a_folder_that_is_no_run_is_named(tmp_path: Path, missing: str) -> None:
    folder = run_folder(tmp_path / "run")
    (folder / missing).unlink()
    with pytest.raises(RunFolderError, match=r"holds no run: expected run\.json and rollouts\.sqlite"):
        write_report(folder)


@pytest.mark.parametrize(
    "files",
    [
        {"controls": {"rows": [3]}}, {"controls": {"rows": [{"name": "none"}]}}, {"prompts": {"rounds": "one"}},
        {"prompts": {"rounds": [{"candidates": [{}]}]}}, {"spent": {"actor_calls": "many"}},
        {"run": {"settings": [1]}}, {"stages": {"sft": {"spent": {"cost": []}}}},
    ],
)  # fmt: skip
def test_a_folder_of_another_form_is_refused_and_not_half_shown(tmp_path: Path, files: dict[str, Any]) -> None:
    folder = run_folder(tmp_path / "run", **files)
    with pytest.raises(RunFolderError):
        write_report(folder)
    assert not (folder / "report.html").exists()


def test_too_much_text_is_cut_and_too_many_rows_are_left_out_and_both_are_told() -> None:
    rng = random.Random(0)
    text = "".join(chr(rng.randrange(0x4E00, 0x9000)) for _ in range(2000))
    tried = [replace(met("warm", n, 1.0, kind="cot", text=f"{n}{text}"), stage="warm") for n in range(50)]
    found = list(compact([*validated(), *tried]))
    whole = payload(found, flipped(found, "val", "dpo1"), threshold=1.0)
    assert (whole.rows, whole.left_out, whole.cut) == (62, 0, 0)
    small = payload(found, flipped(found, "val", "dpo1"), threshold=1.0, most_rows=22, most_bytes=4096)
    assert (small.rows, small.left_out, small.cut, len(small.encoded) <= 4096) == (22, 40, 10, True)
    content = json.loads(gzip.decompress(base64.b64decode(small.encoded)))
    stages = [content["texts"][number] for number in content["stage"]]
    assert [stages.count(name) for name in ("none", "sft", "dpo1", "warm")] == [4, 4, 4, 10]
    assert [stages[row] for row in content["right"]] == ["dpo1"] * 3
    assert any(each.endswith(f"\u2026 ({len('[cot] 10') + 2000:,} characters)") for each in content["texts"])


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_in_a_browser_it_is_quick_quiet_and_accessible(browser: Any, tmp_path: Path, dark: bool) -> None:
    with opened(browser, write_report(run_folder(tmp_path / "run")), dark=dark) as tab:
        assert tab.said == []
        assert [each for each in tab.asked if not each.startswith(("file:", "data:"))] == []
        assert tab.faults() == []
        assert tab.took < 2


def test_the_list_is_filtered_searched_and_walked_by_the_keyboard(browser: Any, tmp_path: Path) -> None:
    with opened(browser, write_report(run_folder(tmp_path / "run"))) as tab:
        page = tab.page
        assert page.inner_text("#count") == "3 shown, 3 won"
        page.click("[data-view=all]")
        assert page.inner_text("#count").startswith("18 shown")
        page.fill("#search", "not 5")
        page.get_by_text("1 shown, 1 won").wait_for()
        assert "[pairs] 4, not 5" in page.inner_text("#detail")
        page.click("#clear")
        page.select_option("#kind", label="hint")
        assert page.inner_text("#count") == "1 shown, 0 won"
        assert "timeout" in page.inner_text("#detail")
        page.click("#clear")
        page.click("[data-view=wrong]")
        assert "won, 1" in page.inner_text(".sides .side >> nth=0")
        assert "lost, 0" in page.inner_text(".sides .side >> nth=1")
        page.click("[data-view=right]")
        page.focus("#list")
        page.keyboard.press("ArrowDown")
        assert page.get_attribute("#list", "aria-activedescendant") == "row-1"
        assert "[cot] dpo1 1" in page.inner_text("#detail")
        page.click("#theme")
        assert page.get_attribute("html", "data-theme") == "dark"


def test_ten_thousand_rollouts_draw_only_what_is_seen(browser: Any, tmp_path: Path) -> None:
    many = [met("warm", n, float(n % 2), kind="cot", text=f"try {n}", source="free") for n in range(10_000)]
    found = list(compact([*validated(), *many]))
    record = replace(read_run(run_folder(tmp_path / "run")), rollouts=found)
    file = tmp_path / "report.html"
    file.write_text(run_page(record), encoding="utf-8")
    assert file.stat().st_size < 5 * 2**20
    with opened(browser, file) as tab:
        assert tab.took < 2
        tab.page.click("[data-view=all]")
        tab.page.focus("#list")
        tab.page.keyboard.press("End")
        assert "try 9999" in tab.page.inner_text("#detail")
        assert tab.page.locator("#rows .row").count() < 60


def test_on_a_phone_nothing_leaves_the_screen(browser: Any, tmp_path: Path) -> None:
    with opened(browser, write_report(run_folder(tmp_path / "run")), width=390) as tab:
        assert tab.page.evaluate("document.documentElement.scrollWidth") == 390
        assert tab.faults() == []


def test_a_comparison_s_page_has_the_same_look_and_locks(browser: Any, tmp_path: Path) -> None:
    (tmp_path / "sgt" / "seed-0" / "sgt").mkdir(parents=True)
    (tmp_path / "sgt" / "seed-0" / "sgt" / "report.html").touch()
    rows = (Row("none", 0.5, (0.2, 0.8)), Row(HOSTILE, 0.75, (0.5, 0.9), gain=0.25), Row("gepa", skipped=HOSTILE))
    file = Comparison("sums", "100 actor calls", (0,), rows, tmp_path).to_html(tmp_path / "report.html")
    page = Page(file.read_text())
    assert "gepa" in page.text
    assert len(page.all("script")) == 1
    assert [each["href"] for each in page.all("a")] == ["#main", "sgt/seed-0/sgt/report.html"]
    with opened(browser, file) as tab:
        assert (tab.said, tab.faults()) == ([], [])
        tab.page.get_by_role("button", name="test", exact=True).click()
        assert tab.page.inner_text("tbody tr >> nth=0").startswith("</script>")


def test_a_comparison_is_read_again_from_its_folder(tmp_path: Path) -> None:
    rows = (Row("none", 0.5, (0.2, 0.8), by_seed={0: 0.5}), Row("gepa", skipped="no LM"))
    found = Comparison("sums", "100 actor calls", (0,), rows, tmp_path)
    (tmp_path / "comparison.json").write_text(json.dumps(found.content()))
    assert Comparison.read(tmp_path) == found
    (tmp_path / "comparison.json").write_text('{"rows": [{"name": "none"}]}')
    with pytest.raises(RunFolderError, match="should hold the rows of a comparison"):
        Comparison.read(tmp_path)
