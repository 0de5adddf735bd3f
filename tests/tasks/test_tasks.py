"""Tasks: their rows from folders and the hub, splits, the registry, and gold answers that score 1.0."""

from __future__ import annotations

import json
import re
import sqlite3
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import dspy
import pytest
from datasets import Dataset, Image
from datasets.exceptions import DatasetNotFoundError
from hub_rows import ROWS, SPLITS, folder_of, gsm8k, rows_of, write
from hypothesis import given
from hypothesis import strategies as st
from places import ROOT
from real_rows import real_folder, real_rows

from optimizers.core.validation import check_splits
from optimizers.tasks import Pools, Sizes, Task, check_task, names, register, task
from optimizers.tasks.loading import HubData
from optimizers.tasks.spider import SpiderData
from optimizers.tasks.splitting import draw_splits
from sgt_modules.errors import SetupError, TaskDataError

ENDINGS = [".jsonl", ".json", ".csv", ".parquet"]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("name", ROWS)
def test_rows_in_the_hub_s_schema_are_read_in_every_format_and_their_gold_scores_1(
    name: str, ending: str, tmp_path: Path
) -> None:
    found = check_task(task(name), folder_of(name, tmp_path, 8, ending))
    images = sum(1 for n in range(8) if name == "hle" and n % 5 == 4)
    assert (found.rows, found.gold_score, found.bad_rows) == (8 * len(SPLITS[name]) - images, 1.0, [])


@pytest.mark.parametrize(
    ("name", "count"),
    [("gsm8k", 500), ("spider", 221), ("hotpotqa", 200), ("truthfulqa", 150), ("mmlu", 285), ("medqa", 150)],
)
def test_the_gold_answers_of_all_real_rows_score_1(name: str, count: int) -> None:
    found = check_task(task(name), real_folder(name))
    assert found.content() == {"task": name, "rows": count, "gold_score": 1.0, "bad_rows": []}


def test_truthfulqa_s_other_figure_and_its_csv_columns_are_read_from_real_rows_too(tmp_path: Path) -> None:
    assert check_task(task("truthfulqa_mc2"), real_folder("truthfulqa")).gold_score == 1.0
    write(real_rows("truthfulqa", "validation.jsonl"), tmp_path / "TruthfulQA.csv")
    for name in ("truthfulqa", "truthfulqa_mc2"):
        found = check_task(task(name), tmp_path)
        assert (found.rows, found.gold_score, found.bad_rows) == (150, 1.0, [])


def test_whole_worked_answers_of_gsm8k_score_1_as_well() -> None:
    rows = real_rows("gsm8k", "test.jsonl")
    pools = task("gsm8k").read(real_folder("gsm8k"))
    examples = [each.example for each in pools.rows["test"]]
    assert [each.question for each in examples] == [row["question"] for row in rows]
    score = [
        task("gsm8k").metric(each, dspy.Prediction(answer=row["answer"])).score
        for each, row in zip(examples, rows, strict=True)
    ]
    assert set(score) == {1.0}


BAD = [
    ("gsm8k", {"answer": "five"}, "answer: expected it to end in '#### ' and a number, got 'five'"),
    ("gsm8k", {"question": None}, "question: Input should be a valid string"),
    ("mmlu", {"answer": 4}, "answer: expected the index of one of 4 choices, got 4"),
    ("mmlu", {"choices": "red"}, "choices: Input should be a valid list"),
    ("medqa", {"answer_idx": "E"}, "answer: expected the text of option E"),
    ("supergpqa", {"answer_letter": "D"}, "answer: expected the text of option 'D'"),
    ("supergpqa", {"options": [str(n) for n in range(30)]}, "30 options are more than there are letters"),
    ("hotpotqa", {"answer": " "}, "answer: expected a text, got none"),
    ("hotpotqa", {"context": {"title": ["one"], "sentences": []}}, "context: 1 titles for 0 passages"),
    ("ds1000", {"code_context": "def test(): ..."}, "code_context: expected it to define test_execution(solution)"),
    ("ds1000", {"metadata": {"problem_id": 1}}, "metadata.library: Field required"),
    ("hle", {"answer_type": "essay"}, "answer_type: Input should be 'exactMatch' or 'multipleChoice'"),
    ("truthfulqa", {"mc1_targets": {"choices": ["a", "b"], "labels": [1, 1]}}, "expected one true choice, got 2"),
    ("truthfulqa", {"mc2_targets": {"choices": ["a"], "labels": [0]}}, "and at least one true choice, got [0]"),
]


@pytest.mark.parametrize(("name", "change", "said"), BAD)
def test_a_row_that_does_not_fit_is_named_by_its_file_and_index(
    name: str, change: dict[str, Any], said: str, tmp_path: Path
) -> None:
    rows = rows_of(name, 4)
    rows[2] = rows[2] | change
    file = write(rows, tmp_path / f"{SPLITS[name][-1]}.jsonl")
    found = check_task(task(name), tmp_path)
    assert [each.place for each in found.bad_rows] == [f"{file.name}[2]"]
    assert said in found.bad_rows[0].problem
    assert (found.rows, found.gold_score) == (4, 1.0)
    with pytest.raises(TaskDataError, match=rf"1 rows of .* do not fit: {file.name}\[2\]: "):
        task(name).splits(tmp_path)


def test_a_gold_answer_that_does_not_score_1_is_a_bad_row() -> None:
    own = Task(
        "own", "", "question -> answer", lambda example, _: example.answer == "yes", lambda _: _sums("yes", "no")
    )
    found = check_task(own)
    assert (found.rows, found.gold_score) == (2, 0.5)
    assert [(each.place, each.problem) for each in found.bad_rows] == [("row[1]", "the gold answer scores 0: ")]


def _sums(*answers: str) -> list[dspy.Example]:
    return [dspy.Example(question=f"{n}+1?", answer=each).with_inputs("question") for n, each in enumerate(answers)]


def test_a_metric_that_raises_makes_a_bad_row_and_no_crash() -> None:
    def broken(example: dspy.Example, _: object) -> bool:
        raise KeyError(example.answer)

    found = check_task(Task("own", "", "question -> answer", broken, lambda _: _sums("yes")))
    assert found.gold_score == 0.0
    assert "KeyError: 'yes'" in found.bad_rows[0].problem


def test_files_of_a_folder_are_found_by_the_start_of_their_names(tmp_path: Path) -> None:
    for name in ("train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl", "main.jsonl", "training.jsonl"):
        write([gsm8k(len(name) * 1000 + len([*tmp_path.iterdir()]))], tmp_path / name)
    write([gsm8k(1)], tmp_path / "test.parquet")
    (tmp_path / "README.md").write_text("Not rows.")
    pools = task("gsm8k").read(tmp_path)
    places = {split: [each.place for each in rows] for split, rows in pools.rows.items()}
    assert places == {
        "train": ["train-00000-of-00002.jsonl[0]", "train-00001-of-00002.jsonl[0]"],
        "test": ["test.parquet[0]"],
    }


def test_a_configuration_s_own_folder_is_read_first_and_a_file_alone_is_the_one(tmp_path: Path) -> None:
    folder_of("gsm8k", tmp_path / "main", 3)
    write([{"question": "other"}], tmp_path / "train.jsonl")
    assert check_task(task("gsm8k"), tmp_path).rows == 6
    write(rows_of("supergpqa", 5), tmp_path / "alone" / "rows.jsonl")
    assert check_task(task("supergpqa"), tmp_path / "alone").gold_score == 1.0


def test_of_two_files_for_one_split_the_better_is_read_and_the_other_told(tmp_path: Path) -> None:
    write(rows_of("truthfulqa", 5), tmp_path / "mc_task.jsonl")
    write([{"Question": "?"}], tmp_path / "validation.jsonl")
    found = check_task(task("truthfulqa"), tmp_path)
    assert (found.rows, found.bad_rows) == (5, [])
    assert found.notes == ("validation.jsonl skipped, as mc_task.jsonl holds the split validation.",)


def test_a_folder_without_rows_and_a_file_that_is_none_say_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(
        TaskDataError, match=r"Expected a file for train or test in .*, such as train\.jsonl .*found none"
    ):
        task("gsm8k").read(tmp_path)
    with pytest.raises(TaskDataError, match="Expected a folder"):
        task("gsm8k").read(tmp_path / "nowhere")
    (tmp_path / "train.jsonl").write_text('{"question": \n')
    with pytest.raises(TaskDataError, match=r"Expected .*train\.jsonl to hold rows as json"):
        task("gsm8k").read(tmp_path)


def test_a_cell_of_a_csv_file_stays_as_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("question,answer\nWho?,007\nWhat?,None\nWhich?,1e3\n")

    def show(row: Any, _: Path | None) -> dspy.Example:
        return dspy.Example(question=row.question, answer=row.answer).with_inputs("question")

    hotpot: HubData[Any] = task("hotpotqa").loader  # the schema of a question and an answer
    pools = HubData("own", None, "main", {"train": ("train",)}, hotpot.row, show)(tmp_path)
    assert [each.example.answer for each in pools.all_rows] == ["007", "None", "1e3"]


def _databases(home: Path) -> Path:
    file = home / "database" / "tea" / "tea.sqlite"
    file.parent.mkdir(parents=True)
    with closing(sqlite3.connect(file)) as database:
        database.executescript("CREATE TABLE tea (name TEXT); INSERT INTO tea VALUES ('oolong'), ('sencha')")
    return home


def spider(n: int, db_id: str = "tea") -> dict[str, Any]:
    query = f"SELECT count(*) + {n} FROM tea"
    tokens = {"query_toks": query.split(), "query_toks_no_value": ["select"], "question_toks": ["How"]}
    return {"db_id": db_id, "question": f"How many teas, and {n}?", "query": query, **tokens}


@pytest.mark.parametrize("ending", ENDINGS)
def test_spider_s_rows_are_read_beside_their_databases(ending: str, tmp_path: Path) -> None:
    write([spider(n) for n in range(4)], _databases(tmp_path) / f"train_spider{ending}")
    write([*(spider(n) for n in range(4, 6)), spider(6, "coffee")], tmp_path / f"dev{ending}")
    (tmp_path / "tables.json").write_text("[]")
    found = check_task(task("spider"), tmp_path)
    assert (found.rows, found.gold_score) == (7, 1.0)
    assert [each.place for each in found.bad_rows] == [f"dev{ending}[2]"]
    assert "expected a database at" in found.bad_rows[0].problem


def test_spider_s_questions_come_from_the_hub_where_the_folder_holds_databases_alone(tmp_path: Path) -> None:
    asked: list[tuple[object, ...]] = []
    rows = {"train": [spider(n) for n in range(3)], "validation": [spider(3)]}
    loader = cast("SpiderData", task("spider").loader)
    [first, *_] = loader(_databases(tmp_path), reader=_hub(rows, asked)).all_rows
    assert asked == [("xlangai/spider", "spider", split, "main") for split in ("train", "validation")]
    assert first.example.schema == first.example.tables == "CREATE TABLE tea (name TEXT)"
    assert Path(first.example.database) == tmp_path / "database" / "tea" / "tea.sqlite"
    assert set(first.example.inputs().keys()) == {"tables", "question"}
    with pytest.raises(TaskDataError, match="unpack the authors' archive"):
        task("spider").read()


def _hub(rows: Mapping[str, Iterable[Mapping[str, Any]]], asked: list[tuple[object, ...]]) -> Any:
    def read(
        hub: str, configuration: str | None, *, split: str, revision: str, columns: Sequence[str]
    ) -> Iterable[Mapping[str, Any]]:
        asked.append((hub, configuration, split, revision))
        return rows[split]

    return read


def test_the_hub_is_asked_for_name_configuration_split_and_revision() -> None:
    asked: list[tuple[object, ...]] = []
    loader: HubData[Any] = task("gsm8k").loader
    pools = loader(None, reader=_hub({"train": rows_of("gsm8k", 3), "test": rows_of("gsm8k", 2, 3)}, asked))
    commit = "740312add88f781978c0658806c59bc2815b9866"
    assert asked == [("openai/gsm8k", "main", split, commit) for split in ("train", "test")]
    assert [each.place for each in pools.rows["test"]] == ["test[0]", "test[1]"]
    assert pools.origin == f"openai/gsm8k (main) at {commit}"


def test_a_gated_data_set_and_one_out_of_reach_say_what_to_do() -> None:
    def gated(*_: object, **__: object) -> Any:
        raise DatasetNotFoundError("Dataset 'cais/hle' is a gated dataset on the Hub. You must be authenticated.")

    loader: HubData[Any] = task("hle").loader
    with pytest.raises(
        TaskDataError, match=r"cais/hle is gated: accept its terms .* `hf auth login`, or pass a folder"
    ):
        loader(None, reader=gated)
    with pytest.raises(TaskDataError, match=r"openai/gsm8k cannot be read from the hub: .* pass a folder of its rows"):
        task("gsm8k").read()  # the tests are offline


@given(
    st.lists(st.sampled_from(["one", "One ", "two", "three", "four", "five"]), min_size=3, max_size=30),
    st.integers(1, 9),
    st.integers(0, 3),
)
def test_splits_share_no_question_however_it_is_written(questions: list[str], size: int, seed: int) -> None:
    examples = [dspy.Example(question=each, n=n).with_inputs("question") for n, each in enumerate(questions)]
    different = {each.strip().casefold() for each in questions}
    if len(different) < 3:
        with pytest.raises(TaskDataError, match="leaves none for"):
            draw_splits(Pools.of(examples), Sizes(size, size, size), seed=seed)
        return
    splits = draw_splits(Pools.of(examples), Sizes(size, size, size), seed=seed)
    parts = [{each.question.strip().casefold() for each in part} for part in (splits.train, splits.val, splits.test)]
    assert sum(map(len, parts)) == len(set.union(*parts))
    assert all(1 <= len(part) <= size for part in (splits.train, splits.val, splits.test))
    again = draw_splits(Pools.of(examples), Sizes(size, size, size), seed=seed)
    assert again.record == splits.record


def test_splits_of_a_task_are_seeded_disjoint_recorded_and_of_the_right_origin(tmp_path: Path) -> None:
    folder = folder_of("gsm8k", tmp_path, 40)
    write([*rows_of("gsm8k", 40), *rows_of("gsm8k", 3, 40)], folder / "train.jsonl")  # three of the test set's, too
    splits, other = task("gsm8k").splits(folder, limit=10), task("gsm8k").splits(folder, limit=10, seed=1)
    check_splits(splits.train, splits.val, splits.test)
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [10, 10, 10]
    assert all(place.startswith("test.jsonl[") for place in splits.record["test"]["rows"])
    assert all(place.startswith("train.jsonl[") for place in splits.record["train"]["rows"])
    assert splits.record["train"]["fingerprint"] != other.record["train"]["fingerprint"]
    assert (splits.record["seed"], splits.record["origin"]) == (0, str(folder))
    assert json.loads(json.dumps(splits.record)) == splits.record


def test_too_few_rows_are_shared_out_in_proportion_and_told(tmp_path: Path) -> None:
    write(rows_of("truthfulqa", 82), tmp_path / "validation.jsonl")
    splits = task("truthfulqa").splits(tmp_path)
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [15, 15, 51]
    assert "test: 51 of 517, as the pool train has 82 questions left for 817 wanted." in splits.notes


def test_skipped_rows_are_noted(tmp_path: Path) -> None:
    write(rows_of("hle", 20), tmp_path / "test.jsonl")
    splits = task("hle").splits(tmp_path, limit=4)
    assert splits.notes[0] == "4 rows skipped: their questions need an image."


def test_an_image_that_no_task_reads_is_not_decoded(tmp_path: Path) -> None:
    rows = [row | {"image_preview": {"bytes": b"no image", "path": None}} for row in rows_of("hle", 3)]
    data = Dataset.from_list(rows).cast_column("image_preview", Image(decode=False))
    data.cast_column("image_preview", Image()).to_parquet(tmp_path / "test.parquet")
    assert check_task(task("hle"), tmp_path).gold_score == 1.0


def test_a_hotpotqa_example_shows_its_passages_with_their_titles(tmp_path: Path) -> None:
    [found, *_] = task("hotpotqa").read(folder_of("hotpotqa", tmp_path, 1)).all_rows
    assert found.example.context[:2] == [
        "Firm 0: Firm 0 was founded by Founder 0.",
        "Founder 0: Founder 0 was born in City 0. He is dead.",
    ]
    assert set(found.example.inputs().keys()) == {"context", "question"}


def test_truthfulqa_s_options_are_shuffled_the_same_way_each_time(tmp_path: Path) -> None:
    folder = folder_of("truthfulqa", tmp_path, 30)
    first, again = (task("truthfulqa").read(folder).all_rows for _ in range(2))
    assert [each.example.options for each in first] == [each.example.options for each in again]
    assert {each.example.answer for each in first} == {"A", "B", "C"}


@pytest.mark.parametrize("name", names())
def test_every_task_has_a_program_a_source_and_sizes(name: str) -> None:
    found = task(name)
    assert found.name == name
    assert found.description.endswith(".")
    assert found.source is not None
    assert found.new_program().predictors()
    assert found.new_program() is not found.new_program()
    assert 100 <= found.sizes.train <= found.sizes.test <= 2000 or name == "house_terms"


def test_the_house_terms_are_a_task_whose_gold_queries_score_1() -> None:
    assert check_task(task("house_terms")).gold_score == 1.0
    splits = task("house_terms").splits(limit=10)
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [10, 10, 10]


PAGE = ROOT / "docs" / "tasks.md"


def test_the_tasks_of_the_documentation_run(tmp_path: Path) -> None:
    """Its files, written as they stand there; the second reads a folder in its own schema."""
    codes = re.findall(r"```python\n(# (\w+\.py)\n.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    for code, name in codes:
        (tmp_path / name).write_text(code)
    capitals, trivia = (task(f"{tmp_path / name}:TASK") for _, name in codes)
    assert check_task(capitals).content() == {"task": "capitals", "rows": 5, "gold_score": 1.0, "bad_rows": []}
    assert len(capitals.splits().test) >= 1
    for split in ("train", "test"):
        write([{"question": f"Who in {split}?", "answer": "Nobody"}], tmp_path / f"{split}.jsonl")
    assert check_task(trivia, tmp_path).gold_score == 1.0


def test_the_table_of_the_documentation_is_what_the_tasks_are() -> None:
    table = {
        row[1]: row[0] for row in re.findall(r"^(\| `(\w+)`.*\|)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert set(names()) == set(table)
    for name in set(names()) - {"house_terms", "reasoning_gym", "truthfulqa_mc2"}:
        loader = task(name).loader
        hub = loader.hub if isinstance(loader, SpiderData) else cast("HubData[Any]", loader)
        sizes, source = task(name).sizes, task(name).source
        assert source is not None
        said = [hub.hub, hub.revision, source.paper.rpartition(" ")[2], f"{sizes.train}, {sizes.val}, {sizes.test}"]
        said += [hub.configuration] if hub.configuration else []
        assert [part for part in said if part not in table[name]] == []


OWN = """
import dspy
from optimizers.tasks import Task

TASK = Task(
    name="sums",
    description="A sum.",
    program="question -> answer",
    metric=lambda example, prediction, trace=None: example.answer == prediction.answer,
    loader=lambda folder: [
        dspy.Example(question=f"{n}+1?", answer=str(n + 1)).with_inputs("question") for n in range(9)
    ],
)
"""


def test_a_task_of_one_s_own_is_a_file_and_its_place_or_a_module_and_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_own_sums.py").write_text(OWN)
    found = task(f"{tmp_path / 'my_own_sums.py'}:TASK")
    assert check_task(found).content() == {"task": "sums", "rows": 9, "gold_score": 1.0, "bad_rows": []}
    (tmp_path / "my_module_of_sums.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    assert task("my_module_of_sums:TASK").name == "sums"
    for name in ("my_own_sums", "my_module_of_sums"):
        sys.modules.pop(name)


def test_a_registered_task_is_known_by_its_name_and_takes_no_other_s() -> None:
    own = Task("registered sums", "", "question -> answer", lambda *_: True, lambda _: _sums("1"))
    assert register(own) is own is task("registered sums") is register(own)
    with pytest.raises(SetupError, match="A task 'gsm8k' already exists"):
        register(Task("gsm8k", "", "question -> answer", lambda *_: True, lambda _: []))


@pytest.mark.parametrize(
    ("which", "said"),
    [
        ("gsm", "no task 'gsm'. There are spider, ds1000"),
        ("nowhere.py:TASK", "no nowhere.py"),
        ("no_such_module:TASK", "no module 'no_such_module'"),
        ("json:loads", "it is a function"),
        ("json:nothing", "the name does not exist"),
    ],
)
def test_what_is_no_task_is_refused_by_name(which: str, said: str) -> None:
    with pytest.raises(SetupError, match=said):
        task(which)


def test_a_loader_of_one_s_own_may_give_its_own_splits_and_no_others() -> None:
    parts = {"train": _sums("1", "2"), "val": _sums(*"3456")[2:], "test": _sums(*"345678")[4:]}
    own = Task("own", "", "question -> answer", lambda *_: True, lambda _: parts)
    splits = own.splits()
    assert {each.answer for each in splits.val} == {"5", "6"}
    assert {each.answer for each in splits.test} == {"7", "8"}
    with pytest.raises(SetupError, match="train, val and test, got dev"):
        Task("own", "", "question -> answer", lambda *_: True, lambda _: {"dev": _sums("1")}).read()


def test_a_program_may_be_made_by_a_function_or_be_a_signature() -> None:
    made = Task("own", "", lambda: dspy.ChainOfThought("question -> answer"), lambda *_: True, lambda _: [])
    assert isinstance(made.new_program(), dspy.ChainOfThought)
    assert made.gold_prediction(_sums("7")[0]).toDict() == {"answer": "7"}


def test_other_metrics_and_judges_are_only_for_tasks_that_take_them() -> None:
    with pytest.raises(SetupError, match="The task gsm8k has no metric 'f1'"):
        task("gsm8k").with_metric("f1")
    with pytest.raises(SetupError, match="takes no judge"):
        task("gsm8k").with_judge(dspy.LM("openai/any"))


@pytest.mark.parametrize("sizes", [(0, 1, 1), (1, -1, 1)])
def test_a_split_of_no_size_is_refused(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(SetupError, match="at least one example per split"):
        Sizes(*sizes)


def test_questions_with_the_same_gold_query_never_stand_in_two_splits_of_spider() -> None:
    """Of the 221 real rows, 99 queries are asked in two wordings."""
    for seed in range(5):
        splits = task("spider").splits(real_folder("spider"), seed=seed)
        queries = [{_plain(each.query) for each in part} for part in (splits.train, splits.val, splits.test)]
        questions = [{_plain(each.question) for each in part} for part in (splits.train, splits.val, splits.test)]
        for parts in (queries, questions):
            assert sum(map(len, parts)) == len(set.union(*parts))
        assert [len(part) for part in (splits.train, splits.val, splits.test)] == [90, 50, 80]


def test_rows_that_share_a_question_with_one_row_and_a_query_with_another_stay_together() -> None:
    rows = [("a", "1"), ("A ", "2"), ("b", "2"), ("c", "3"), ("d", "4"), ("e", "5")]
    examples = [dspy.Example(question=each, query=query).with_inputs("question") for each, query in rows]
    for seed in range(8):
        splits = draw_splits(Pools.of(examples), Sizes(3, 3, 3), seed=seed, question_fields=("question", "query"))
        homes = [
            index
            for index, part in enumerate((splits.train, splits.val, splits.test))
            for each in part
            if each.query in {"1", "2"}
        ]
        assert len(set(homes)) <= 1


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
