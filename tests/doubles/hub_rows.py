"""Rows in the schemas that data sets have on the hub, written for the tests: none is from a data set."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset

COLOURS = ["red", "green", "blue", "black", "white", "brown", "grey", "pink", "violet", "orange"]


def gsm8k(n: int) -> dict[str, Any]:
    return {
        "question": f"Ann has {n} pens and buys 2. How many has she?",
        "answer": f"{n}+2=<<{n}+2={n + 2}>>\n#### {n + 2:,}",
    }


def mmlu(n: int) -> dict[str, Any]:
    asked = f"Which is colour {n}?"
    return {"question": asked, "subject": "painting", "choices": COLOURS[:4], "answer": n % 4}


def medqa(n: int) -> dict[str, Any]:
    options = {letter: f"{colour} pill" for letter, colour in zip("ABCD", COLOURS, strict=False)}
    letter = "ABCD"[n % 4]
    more = {"meta_info": "step1", "metamap_phrases": ["pill"]}
    return {"question": f"Patient {n} needs which pill?", "answer": options[letter], "options": options} | {
        "answer_idx": letter,
        **more,
    }


def supergpqa(n: int) -> dict[str, Any]:
    fields = {"discipline": "Science", "field": "Physics", "subfield": "Optics", "difficulty": "hard"}
    return {
        "uuid": f"{n:032x}",
        "question": f"Which colour has wavelength {n}?",
        "options": COLOURS[: 4 + n % 7],
        "answer": COLOURS[n % 4],
        "answer_letter": "ABCDEFGHIJ"[n % 4],
        "is_calculation": False,
        **fields,
    }


def hotpotqa(n: int) -> dict[str, Any]:
    return {
        "id": f"{n:024x}",
        "question": f"In which city was the founder of firm {n} born?",
        "answer": f"City {n}",
        "type": "bridge",
        "level": "hard",
        "supporting_facts": {"title": [f"Firm {n}", f"Founder {n}"], "sent_id": [0, 0]},
        "context": {
            "title": [f"Firm {n}", f"Founder {n}", "Noise"],
            "sentences": [
                [f"Firm {n} was founded by Founder {n}."],
                [f"Founder {n} was born in City {n}.", " He is dead."],
                [""],
            ],
        },
    }


def hle(n: int) -> dict[str, Any]:
    lettered = n % 2 == 1
    asked = f"What is {n} squared?" + ("\n\nAnswer Choices:\nA. less\nB. its square\nC. more" if lettered else "")
    return {
        "id": f"{n:024x}",
        "question": asked,
        "image": "data:image/png;base64,AAAA" if n % 5 == 4 else "",
        "image_preview": None,
        "answer": "B" if lettered else str(n * n),
        "answer_type": "multipleChoice" if lettered else "exactMatch",
        "author_name": "A. Nobody",
        "rationale": "By multiplication.",
        "rationale_image": None,
        "raw_subject": "Arithmetic",
        "category": "Math",
        "canary": "none",
    }


def ds1000(n: int) -> dict[str, Any]:
    library = ("Numpy", "Pandas")[n % 2]
    tests = f"""
def generate_test_case(test_case_id):
    return {n}, {n} * 2

exec_context = '''
number = test_input
[insert]
'''

def test_execution(solution):
    test_input, expected = generate_test_case(1)
    names = {{"test_input": test_input}}
    exec(exec_context.replace("[insert]", solution), names)
    assert names["result"] == expected
"""
    about = {"problem_id": n, "library_problem_id": n, "library": library, "test_case_cnt": 1}
    return {
        "prompt": f"Problem {n}: double `number` into `result`.\n<code>\nnumber = {n}\n</code>\nBEGIN SOLUTION\n",
        "reference_code": "result = number * 2",
        "code_context": tests,
        "metadata": about | {"perturbation_type": "Origin", "perturbation_origin_id": n},
    }


def truthfulqa(n: int) -> dict[str, Any]:
    one = {"choices": [f"Nothing happens {n} times", "You die", "You turn green"], "labels": [1, 0, 0]}
    several = {"choices": [*one["choices"], "It passes"], "labels": [1, 0, 0, 1]}
    return {"question": f"What happens if you blink {n} times?", "mc1_targets": one, "mc2_targets": several}


ROWS = {
    "gsm8k": gsm8k,
    "mmlu": mmlu,
    "medqa": medqa,
    "supergpqa": supergpqa,
    "hotpotqa": hotpotqa,
    "hle": hle,
    "ds1000": ds1000,
    "truthfulqa": truthfulqa,
    "truthfulqa_mc2": truthfulqa,
}
"""A row's maker by task: of different numbers, different questions."""

SPLITS = {
    "gsm8k": ("train", "test"),
    "mmlu": ("validation", "test"),
    "medqa": ("train", "test"),
    "supergpqa": ("train",),
    "hotpotqa": ("train", "validation"),
    "hle": ("test",),
    "ds1000": ("test",),
    "truthfulqa": ("validation",),
    "truthfulqa_mc2": ("validation",),
}
"""The hub's splits that a task reads."""


def rows_of(name: str, count: int, start: int = 0) -> list[dict[str, Any]]:
    return [ROWS[name](n) for n in range(start, start + count)]


def write(rows: Sequence[Mapping[str, Any]], file: Path) -> Path:
    """Write rows in the format that the file's name ends in; in CSV, lists and mappings become JSON."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".parquet":
        Dataset.from_list([*rows]).to_parquet(file)
    elif file.suffix == ".csv":
        flat = [
            {key: json.dumps(each) if isinstance(each, (dict, list)) else each for key, each in row.items()}
            for row in rows
        ]
        Dataset.from_list(flat).to_csv(file)
    elif file.suffix == ".json":
        file.write_text(json.dumps([*rows]), encoding="utf-8")
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def folder_of(name: str, home: Path, count: int = 12, ending: str = ".jsonl") -> Path:
    """A folder of a task's rows, a file a split."""
    for place, split in enumerate(SPLITS[name]):
        write(rows_of(name, count, place * count), home / f"{split}{ending}")
    return home
