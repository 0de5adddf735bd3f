"""`make real`: SGT on real models and real rows of Spider, with few-shot contenders and controls.

    SGT_REAL_MODELS  a folder that holds qwen2.5-coder-0.5b and smollm2-135m; unset, the models come from the hub
    SGT_REAL_DATA    a folder that holds spider/, with its questions and database/<db_id>/<db_id>.sqlite

Resumes from its folder after a stop. `--quick` runs the same steps on fewer questions.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

ACTOR = ("qwen2.5-coder-0.5b", "Qwen/Qwen2.5-Coder-0.5B-Instruct")
GENERATOR = ("smollm2-135m", "HuggingFaceTB/SmolLM2-135M-Instruct")
BUDGET, QUICK_BUDGET = 5_000, 1_000
"""Actor calls a contender: more than SGT's light recipe makes on 90 training questions, or its quick one on 24."""


def main() -> None:
    """Check the models and data, then run `sgt bench spider`."""
    options = _options()
    actor, generator = options.actor or _model(*ACTOR), options.generator or _model(*GENERATOR)
    home = os.environ.get("SGT_REAL_DATA")
    rows = options.data_dir or (Path(home) / "spider" if home else None)
    if missing := [*_missing_models(actor, generator), *_missing_rows(rows)]:
        raise SystemExit("make real cannot start. " + " ".join(missing))
    words = ["bench", "spider", "--actor", actor, "--generator", generator, "--data-dir", str(rows), "--controls"]
    words += ["--budget", str(QUICK_BUDGET if options.quick else BUDGET), "--actor-dtype", options.actor_dtype]
    words += ["--threads", "128"]  # a local actor reads shared prefixes once
    words += ["--log-dir", str(options.log_dir / ("quick" if options.quick else "full") / Path(generator).name)]
    from optimizers.cli import main as sgt

    sys.argv = ["sgt", *words, *(["--quick"] if options.quick else [])]
    sgt()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--actor", default="", help="a model's folder, local:HUB_ID, or a name of LiteLLM's")
    parser.add_argument("--actor-dtype", default="auto", help="int8 quantises it")
    parser.add_argument("--generator", default="", help="a model's folder or hub id")
    parser.add_argument("--data-dir", type=Path, help="Spider's folder")
    parser.add_argument("--log-dir", type=Path, default=Path("runs/real"))
    parser.add_argument("--quick", action="store_true")
    return parser.parse_args()


def _model(folder: str, hub_id: str) -> str:
    """Return the folder in SGT_REAL_MODELS if the variable is set, else the hub id."""
    home = os.environ.get("SGT_REAL_MODELS")
    return str(Path(home) / folder) if home else f"local:{hub_id}"


def _missing_models(*names: str) -> list[str]:
    from sgt_modules import LocalEngine, errors
    from sgt_modules.lms import LOCAL, is_local

    wanted: list[str] = []
    for name in dict.fromkeys(names):
        model = name.removeprefix(LOCAL)
        try:
            if is_local(name) or name == names[-1]:
                LocalEngine(model).check()
        except errors.GeneratorNotFoundError:
            wanted.append(model)
    if not wanted:
        return []
    said = (
        f"Models: {' and '.join(wanted)} cannot be had. Set SGT_REAL_MODELS to a folder that holds {ACTOR[0]} and "
        f"{GENERATOR[0]} (`hf download {ACTOR[1]} --local-dir FOLDER/{ACTOR[0]}`, likewise {GENERATOR[1]}), or leave "
        "it unset where huggingface.co can be reached."
    )
    return [said]


def _missing_rows(rows: Path | None) -> list[str]:
    if rows is not None and (rows / "database").is_dir():
        return []
    came = "SGT_REAL_DATA is not set" if rows is None else f"{rows} holds no database/"
    said = (
        f"Rows: {came}. Set SGT_REAL_DATA to a folder that holds spider/: unpack the authors' archive "
        "(yale-lily.github.io/spider) there; the hub has Spider's questions, and not its databases."
    )
    return [said]


if __name__ == "__main__":
    main()
