"""Keeps the drafts of a program's calls in the store, so that no later session pays for them again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, cast

import dspy
from dspy.utils.exceptions import AdapterParseError
from pydantic_core import PydanticUndefined

from optimizers.core.fingerprints import split_scope
from optimizers.rollouts.kept_answers import dump_answer, load_answer
from optimizers.store.rollout_store import RolloutStore
from sgt_modules.drafts import Draft, DraftMemo, Inputs
from sgt_modules.prompts import without_supplement
from sgt_modules.safety import clean_text
from sgt_modules.wrapping import supplemented_predictors

_NO_INPUTS = ("signature", "demos", "config", "lm")
"""The arguments of a `dspy.Predict` that are not traced as its inputs."""


def open_drafts(program: dspy.Module, store: RolloutStore, scope: str) -> DraftMemo:
    """Return the drafts of a program in a store; those of another program, LM or version have another scope."""
    return DraftMemo(_StoredDrafts(program, store, split_scope(scope)[0] or scope))


class _StoredDrafts:
    """A shelf in the store. A draft that cannot be restored as equal from text is not kept there."""

    def __init__(self, program: dspy.Module, store: RolloutStore, scope: str) -> None:
        self._store, self._scope = store, scope
        self._predictors: dict[str, dspy.Predict] = {each.role: each for _, each in supplemented_predictors(program)}

    def find(self, role: str, key: str, inputs: Inputs) -> Draft | None:
        """As `DraftShelf`."""
        predictor, text = self._predictors.get(role), self._store.find_draft(self._hash(key))
        return None if predictor is None or text is None else load_draft(text, predictor, inputs)

    def keep(self, role: str, key: str, draft: Draft) -> None:
        """As `DraftShelf`."""
        predictor = self._predictors.get(role)
        if predictor is not None and (text := dump_draft(draft, predictor)):
            self._store.add_draft(self._hash(key), text)

    def _hash(self, key: str) -> str:
        return blake2b(clean_text(f"{self._scope}\0{key}").encode(), digest_size=16).hexdigest()


def dump_draft(draft: Draft, predictor: dspy.Predict) -> str:
    """A draft as JSON; empty if `load_draft` could not restore it as equal.

    >>> dump_draft(Draft(dspy.Prediction(answer="4")), dspy.Predict("question -> answer"))
    '{"output": {"answer": "4"}, "answer": "{\\\\"typed\\\\": {}, \\\\"completions\\\\": null}"}'
    """
    if draft.prediction is not None:
        answer = dump_answer(draft.prediction, predictor)
        output = {name: each if type(each) is str else "" for name, each in draft.prediction.items()}
        return json.dumps({"output": output, "answer": answer}) if answer else ""
    problem = draft.problem
    if type(problem) is not AdapterParseError or not isinstance(problem.lm_response, str):
        return ""
    return json.dumps({"adapter": problem.adapter_name, "reply": problem.lm_response, "message": str(problem)})


def load_draft(text: str, predictor: dspy.Predict, inputs: Inputs) -> Draft | None:
    """Restore a draft as the answer to a call with these inputs; None for a text that `dump_draft` did not write.

    >>> predictor = dspy.Predict("question -> answer")
    >>> draft = Draft(dspy.Prediction(answer="4"))
    >>> load_draft(dump_draft(draft, predictor), predictor, {"question": "2+2?"}).texts
    {'answer': '4'}
    """
    signature = without_supplement(cast("type[dspy.Signature]", predictor.signature))
    try:
        content = cast("dict[str, Any]", json.loads(text))
        if "output" not in content:
            problem = AdapterParseError(content["adapter"], cast("Any", signature), content["reply"])
            problem.message = content["message"]
            problem.args = (problem.message,)
            return Draft(problem=problem)
        prediction = load_answer(content["output"], content["answer"], predictor)
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return None if prediction is None else Draft(prediction, _traced(signature, inputs))


def _traced(signature: type[dspy.Signature], inputs: Inputs) -> Mapping[str, object]:
    """The inputs as DSPy traces them: without settings of the call, and with the signature's default values."""
    given = {name: value for name, value in inputs.items() if name not in _NO_INPUTS}
    defaults = {name: each.default for name, each in signature.input_fields.items()}
    missing = {name: value for name, value in defaults.items() if name not in given and value is not PydanticUndefined}
    return {**given, **missing}
