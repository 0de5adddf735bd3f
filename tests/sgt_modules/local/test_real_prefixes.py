from __future__ import annotations

import dspy
import pytest
from real_models import ACTOR, real_model
from real_rows import real_folder

from optimizers.tasks import task
from optimizers.tasks.spider import AnswerInSQLite
from sgt_modules.local.batching import TokenRequest
from sgt_modules.local.engine import LocalEngine
from sgt_modules.prompts import with_supplement

pytestmark = [pytest.mark.real_model, pytest.mark.slow]

NOTES = ["Count with COUNT(*).", "Name the columns that are asked for.", "Join the tables by their ids."]


def test_a_real_actor_says_the_same_and_reads_far_less_where_supplements_share_their_question() -> None:
    rows = [placed.example for pool in task("spider").read(real_folder("spider")).rows.values() for placed in pool]
    first = {row.db_id: row for row in rows}  # a question for each database
    short = sorted(first.values(), key=lambda example: len(example.tables))[:2]
    signature, adapter = with_supplement(AnswerInSQLite), dspy.ChatAdapter()
    chats = [adapter.format(signature, [], {**row.inputs(), "supplement": note}) for row in short for note in NOTES]
    read, texts = dict[str, int](), dict[str, list[str]]()
    for share in ("prefix", "batch"):
        engine = LocalEngine(real_model(ACTOR), device="cpu", dtype="float32", share=share)
        token_requests = [TokenRequest(engine.encoder.encode(messages), 0, 0.0, 8) for messages in chats]
        done = engine._decode(token_requests)
        read[share], texts[share] = engine.tokens_read, [done[request].text for request in token_requests]
    assert texts["prefix"] == texts["batch"]
    assert all(texts["prefix"])
    assert read["prefix"] < 0.7 * read["batch"]
