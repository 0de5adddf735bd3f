"""Advice on a draft, in every way of calling: the draft is the answer where the generator has nothing to say."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import dspy
import pytest
from dspy.lm15 import Message, Request, Response, Usage, response_to_events
from dspy.streaming import StreamListener, StreamResponse
from dspy.utils.exceptions import AdapterParseError
from hypothesis import given
from hypothesis import strategies as st
from scripted import UNREADABLE, ScriptedEngine, ScriptedGenerator, reply

from sgt_modules import SupplementedPredictor, supplement, unsupplement
from sgt_modules.drafts import Draft, DraftMemo
from sgt_modules.embedded import QUICK, HouseTermsWorld, embedded_actor, embedded_generator, find_term
from sgt_modules.embedded import program as sql_program
from sgt_modules.episode import Place, episode
from sgt_modules.errors import SetupError
from sgt_modules.gate import Gate
from sgt_modules.generator_prompt import DRAFT_CLOSING, UNREADABLE_DRAFT, GeneratorPrompt
from sgt_modules.kinds import SILENCE, Supplement
from sgt_modules.wrapping import fitting_state, with_generator

NOTE = Supplement("mistakes", "Count twice.")
SHOWN = "[mistakes] Count twice."


def help_wrong_drafts(prompt: str) -> Supplement:
    """Keep a draft of 4, and advise on any other."""
    return SILENCE if "Draft of answer: 4" in prompt else NOTE


def count_on_fingers(text: str) -> str:
    """Say 4 to 2+2 and to advice, else 5."""
    return reply(answer="4" if "2+2" in text or SHOWN in text else "5")


class Calling:
    """A predictor with drafts, its actor's engine and its generator."""

    def __init__(self, script: Callable[[str], str] = count_on_fingers, **options: object) -> None:
        self.engine = ScriptedEngine(script)
        self.generator = ScriptedGenerator(help_wrong_drafts)
        options = {"draft": True, **options}
        self.program = supplement(dspy.Predict("question -> answer"), generator=self.generator, **options)

    def ask(self, question: str, *, is_async: bool = False) -> dspy.Prediction:
        with dspy.context(lm=self.engine.lm()):
            if is_async:
                return asyncio.run(self.program.acall(question=question))
            return self.program(question=question)


ASYNC = pytest.mark.parametrize("is_async", [False, True])


@ASYNC
def test_a_right_draft_is_the_answer_without_a_second_call(is_async: bool) -> None:
    calling = Calling()
    assert calling.ask("2+2?", is_async=is_async).answer == "4"
    assert len(calling.engine.asked) == 1
    assert SHOWN not in calling.engine.asked[0]


@ASYNC
def test_a_wrong_draft_is_answered_again_with_the_note(is_async: bool) -> None:
    calling = Calling()
    assert calling.ask("1+3?", is_async=is_async).answer == "4"
    first, second = calling.engine.asked
    assert SHOWN not in first
    assert SHOWN in second
    assert "5" not in second.replace(SHOWN, "")  # the actor does not read its draft
    assert "Draft of answer: 5" in calling.generator.asked[0]


@ASYNC
@pytest.mark.parametrize("kind", UNREADABLE)
def test_the_generator_reads_that_a_draft_could_not_be_read(kind: str, is_async: bool) -> None:
    calling = Calling(lambda text: reply(answer="4") if SHOWN in text else UNREADABLE[kind](text))
    assert calling.ask("2+2?", is_async=is_async).answer == "4"
    assert UNREADABLE_DRAFT in calling.generator.asked[0]


@ASYNC
def test_an_unreadable_draft_that_is_kept_fails_as_the_plain_program_does(is_async: bool) -> None:
    calling = Calling(UNREADABLE["untagged"])
    silent = with_generator(calling.program, ScriptedGenerator(lambda _: SILENCE))
    calling.program, plain = silent, dspy.Predict("question -> answer")
    with pytest.raises(AdapterParseError):
        calling.ask("2+2?", is_async=is_async)
    asked = len(calling.engine.asked)
    with pytest.raises(AdapterParseError), dspy.context(lm=calling.engine.lm()):
        plain(question="2+2?")
    assert calling.engine.asked[asked:] == calling.engine.asked[:asked]


@ASYNC
@pytest.mark.parametrize("most", [0, 1, 10])
@pytest.mark.parametrize("question", ["2+2?", "1+3?"])
def test_a_call_leaves_one_trace_entry_of_its_answer(question: str, most: int, is_async: bool) -> None:
    calling = Calling()
    with dspy.context(trace=[("before", {}, None)], max_trace_size=most):
        answer = calling.ask(question, is_async=is_async)
        *before, last = dspy.settings.trace
    if not most:
        assert last[0] == "before"
        return
    assert len(before) == (most > 1)
    predictor, inputs, prediction = last
    assert predictor is calling.program
    assert prediction is answer
    assert inputs == {"question": question} | ({} if question == "2+2?" else {"supplement": SHOWN})


@pytest.mark.parametrize("question", ["2+2?", "1+3?"])
def test_the_last_entry_of_the_history_is_the_answers(question: str) -> None:
    calling = Calling()
    answer = calling.ask(question)
    history = calling.program.history
    assert len(history) == len(calling.engine.asked)
    assert f"[[ ## answer ## ]]\n{answer.answer}" in str(history[-1]["outputs"][0]).replace("\\n", "\n")
    assert (SHOWN in str(history[-1]["messages"])) == (question == "1+3?")


def test_both_calls_count_as_usage() -> None:
    calling, plain = Calling(), Calling(draft=False)
    used: list[int] = []
    for each in (calling, plain):
        with dspy.context(track_usage=True):
            usage = each.ask("1+3?").get_lm_usage() or {}
        used.append(usage["scripted/actor"]["prompt_tokens"])
    assert used[0] > used[1]
    assert used[0] == sum(len(text.split()) for text in calling.engine.asked)


def test_a_table_of_supplements_needs_no_draft_and_silence_is_the_draft() -> None:
    calling = Calling()
    with episode({Place("self"): NOTE}):
        calling.ask("1+3?")
    assert len(calling.engine.asked) == 1
    with episode({}) as run:
        assert calling.ask("1+3?").answer == "5"
    assert len(calling.engine.asked) == 2
    assert "Draft of answer: 5" in run.prompts["self"][0]


def test_a_function_chooses_after_it_has_read_the_draft() -> None:
    calling, read = Calling(), list[str]()

    def choose(_: Place, prompt: str) -> Supplement:
        read.append(prompt)
        return NOTE

    with episode(choose):
        assert calling.ask("1+3?").answer == "4"
    assert ["Draft of answer: 5" in prompt for prompt in read] == [True]
    assert calling.generator.asked == []


def test_a_supplement_that_the_caller_passes_needs_no_draft() -> None:
    calling = Calling()
    with dspy.context(lm=calling.engine.lm()):
        calling.program(question="1+3?", supplement="Count.")
        calling.program(question="1+3?", supplement="")
    assert len(calling.engine.asked) == 2


def test_a_gate_that_drops_the_note_returns_the_draft() -> None:
    calling = Calling()
    gate = Gate.of(["words that no prompt has"], most_novel=0.1)
    gated = with_generator(calling.program, calling.generator, gate)
    assert not gate.familiar("Draft of answer: 5")
    calling.program = gated
    assert calling.ask("1+3?").answer == "5"
    assert len(calling.engine.asked) == 1


def test_without_drafts_prompts_requests_and_state_are_as_before() -> None:
    off, plain = Calling(draft=False), Calling()
    off.ask("1+3?")
    assert len(off.engine.asked) == 1
    assert "Draft" not in off.generator.asked[0]
    assert "draft" not in supplement(off.program, generator=embedded_generator()).dump_state()
    assert "draft" not in vars(off.program)
    assert "draft" not in vars(unsupplement(plain.program))
    assert "Draft" not in GeneratorPrompt().write(dspy.Signature("question -> answer"), {"question": "2+2?"})


def test_the_option_is_saved_and_loaded(tmp_path: Path) -> None:
    generator = embedded_generator()
    made = supplement(dspy.Predict("question -> answer"), generator=generator, draft=True)
    made.save(tmp_path / "program.json")
    assert json.loads((tmp_path / "program.json").read_text())["draft"] is True
    loaded = supplement(dspy.Predict("question -> answer"), generator=generator)
    loaded.load_state(made.dump_state())
    assert loaded.draft
    loaded.load_state(supplement(dspy.Predict("question -> answer"), generator=generator).dump_state())
    assert not loaded.draft
    plain = dspy.Predict("question -> answer")
    plain.load_state(fitting_state(plain, made.dump_state()))
    assert "draft" not in vars(plain)
    made.load_state(fitting_state(made, plain.dump_state()))
    assert made.draft
    with pytest.raises(SetupError, match="draft as True or False"):
        loaded.load_state({**made.dump_state(), "draft": "yes"})


def test_a_new_generator_keeps_the_drafts_and_an_option_ends_them() -> None:
    made = Calling().program
    other = ScriptedGenerator(lambda _: SILENCE)
    assert supplement(made, generator=other).draft
    assert with_generator(made, other).draft
    assert not supplement(made, generator=other, draft=False).draft
    assert made.deepcopy().draft
    with pytest.raises(SetupError, match="draft as True or False"):
        supplement(made, generator=other, draft="yes")


class Chain(dspy.Module):
    """Two predictors, the second of which reads the first one's answer."""

    def __init__(self) -> None:
        super().__init__()
        self.plan = dspy.Predict("question -> plan")
        self.solve = dspy.ChainOfThought("plan -> answer")

    def forward(self, question: str) -> dspy.Prediction:
        return self.solve(plan=self.plan(question=question).plan)


def say_what_is_read(text: str) -> str:
    """Answer each predictor with what it read last, and whether it read advice."""
    said = "advised" if SHOWN in text else "alone"
    return reply(plan=f"plan {said}") if "`[[ ## plan ## ]]`" in text else reply(reasoning="so", answer=said)


def test_each_predictor_of_a_program_drafts_its_own_call() -> None:
    engine, generator = ScriptedEngine(say_what_is_read), ScriptedGenerator(lambda _: NOTE)
    program = supplement(Chain(), generator=generator, draft=True)
    with dspy.context(lm=engine.lm(), trace=[]):
        assert program(question="q").answer == "advised"
        assert [name for _, name, _ in dspy.settings.trace] == [
            {"question": "q", "supplement": SHOWN},
            {"plan": "plan advised", "supplement": SHOWN},
        ]
    plan, solve = generator.asked
    assert "Draft of plan: plan alone" in plan
    assert "plan: plan advised" in solve  # the second draft is of the call that was made
    assert "Draft of reasoning: so\nDraft of answer: alone" in solve
    assert len(engine.asked) == 4


def test_an_agents_draft_is_the_step_that_it_was_about_to_take() -> None:
    def step(text: str) -> str:
        if "`[[ ## next_tool_name ## ]]`" not in text:
            return reply(reasoning="so", answer="7")
        done = "Observation" in text or "observation_0" in text
        tool, arguments = ("finish", "{}") if done or SHOWN not in text else ("add", '{"a": 3, "b": 4}')
        return reply(next_thought="hm", next_tool_name=tool, next_tool_args=arguments)

    def add(a: int, b: int) -> int:
        """Add."""
        called.append((a, b))
        return a + b

    called: list[tuple[int, int]] = []
    engine = ScriptedEngine(step)
    generator = ScriptedGenerator(
        lambda prompt: (
            NOTE if "Draft of next_tool_name: finish" in prompt and "observation_0" not in prompt else SILENCE
        )
    )
    program = supplement(dspy.ReAct("question -> answer", [add]), generator=generator, draft=True)
    with dspy.context(lm=engine.lm()):
        answer = program(question="3+4?")
    assert answer.answer == "7"
    assert called == [(3, 4)]  # no draft's tool was called
    assert "Draft of next_tool_name: finish\nDraft of next_tool_args: {}" in generator.asked[0]
    assert len(engine.asked) == 2 + 1 + 1  # a step with a note, a kept step, a kept answer


class Streaming:
    """An engine that streams its answers word by word."""

    def __init__(self) -> None:
        self._lock, self.asked = threading.Lock(), list[str]()

    def complete(self, request: Request) -> Response:
        text = request.messages[-1].text or ""
        with self._lock:
            self.asked.append(text)
        said = "seven with the note " if SHOWN in text else "four alone in a draft "
        message = Message.assistant(reply(answer=said))
        return Response(id=None, model=request.model, message=message, finish_reason="stop", usage=Usage())

    def stream(self, request: Request) -> Iterator[object]:
        response = self.complete(request)
        begin, *_, end = response_to_events(response)
        yield begin
        for word in (response.message.text or "").split(" "):
            part = Message.assistant(f"{word} ")
            events = response_to_events(Response(None, request.model, part, finish_reason="stop", usage=Usage()))
            yield list(events)[1]
        yield end


class AsyncStreaming:
    """The same engine for coroutines."""

    def __init__(self, engine: Streaming) -> None:
        self.engine = engine

    async def complete(self, request: Request) -> Response:
        return self.engine.complete(request)

    async def stream(self, request: Request) -> AsyncIterator[object]:
        for event in self.engine.stream(request):
            yield event


@ASYNC
@pytest.mark.parametrize("listening", [False, True])
@pytest.mark.parametrize("final", [False, True])
@pytest.mark.parametrize("written", [NOTE, SILENCE])
def test_the_users_stream_has_the_second_answer_or_the_draft_as_a_whole(
    written: Supplement, final: bool, listening: bool, is_async: bool
) -> None:
    engine, generator = Streaming(), ScriptedGenerator(lambda _: written)
    program = supplement(dspy.Predict("question -> answer"), generator=generator, draft=True)
    lm = dspy.LM("streaming/actor", engine=engine, async_engine=AsyncStreaming(engine), cache=False, num_retries=0)
    options = {"stream_listeners": [StreamListener("answer")]} if listening else {}
    options |= {"include_final_prediction_in_output_stream": final, "is_async_program": is_async}

    async def collect() -> list[object]:
        with dspy.context(lm=lm):
            return [chunk async for chunk in dspy.streamify(program, **options)(question="q")]

    chunks = asyncio.run(collect())
    parts = [chunk for chunk in chunks if not isinstance(chunk, dspy.Prediction)]
    shown = "".join(
        each.chunk if isinstance(each, StreamResponse) else each.choices[0].delta.content or "" for each in parts
    )
    assert "alone" not in shown
    assert len(engine.asked) == (2 if written else 1)
    if written:
        assert "seven with the note" in shown
    else:
        assert (shown, chunks[-1].answer) == ("", "four alone in a draft")


def test_long_drafts_are_shortened_like_long_inputs() -> None:
    signature = dspy.Signature("question -> reasoning, answer")
    draft = {"reasoning": "so " * 2000, "answer": "4"}
    text = GeneratorPrompt().write(signature, {"question": "q"}, draft=draft, limit=1500)
    assert len(text) <= 1500
    assert "question: q" in text
    assert "Draft of answer: 4" in text
    assert text.endswith(DRAFT_CLOSING)


@given(
    st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), st.integers() | st.text() | st.none(), max_size=3)
)
def test_a_memo_has_the_first_draft_of_equal_inputs_and_of_no_others(inputs: dict[str, object]) -> None:
    memo = DraftMemo()
    memo.keep("solve", inputs, Draft(dspy.Prediction(answer="first")))
    memo.keep("solve", dict(reversed(inputs.items())), Draft(dspy.Prediction(answer="second")))
    found = memo.find("solve", dict(inputs))
    assert found is not None
    assert found.texts == {"answer": "first"}
    assert memo.find("plan", inputs) is None
    assert memo.find("solve", {**inputs, "more": 1}) is None
    assert found.prediction is not memo.find("solve", inputs).prediction  # so that a program may change its answer


def test_inputs_that_are_no_json_are_not_kept() -> None:
    memo, lock = DraftMemo(), {"lock": threading.Lock()}
    memo.keep("solve", lock, Draft(dspy.Prediction(answer="first")))
    assert memo.find("solve", lock) is None
    history = {"history": dspy.History(messages=[{"question": "q"}])}
    memo.keep("solve", history, Draft(dspy.Prediction(answer="first")))
    assert memo.find("solve", {"history": dspy.History(messages=[{"question": "q"}])}) is not None
    assert memo.find("solve", {"history": dspy.History(messages=[{"question": "p"}])}) is None


def test_a_memo_fills_in_a_run_and_serves_later_ones() -> None:
    calling, memo = Calling(), DraftMemo()
    with memo.filling(), episode({}):
        calling.ask("1+3?")
        calling.ask("1+3?")
    assert len(calling.engine.asked) == 2  # measured, not remembered
    with memo.reusing(), dspy.context(trace=[]):
        assert calling.ask("1+3?").answer == "4"
        assert len(calling.engine.asked) == 3  # the second answer alone
        assert len(dspy.settings.trace) == 1
    assert isinstance(calling.program, SupplementedPredictor)


def test_the_embedded_generator_copies_the_asked_word_with_a_draft_as_without() -> None:
    world, generator = HouseTermsWorld(0, sizes=QUICK), embedded_generator()
    asked = [each for each in (*world.train, *world.test) if find_term(each)]

    def count_copies(*, draft: bool) -> int:
        program, prompts = supplement(sql_program(), generator=generator, draft=draft), list[str]()
        with dspy.context(lm=embedded_actor()):
            for each in asked:
                with episode({}) as run:
                    program(**each.inputs())
                prompts += run.prompts["self"]
        assert ["Draft of sql: " in prompt for prompt in prompts] == [draft] * len(asked)
        written = generator.sample(prompts, seeds=range(len(asked)))
        return sum(str(find_term(each)) in sample.text for each, sample in zip(asked, written, strict=True))

    without = count_copies(draft=False)
    assert without > len(asked) / 3
    assert count_copies(draft=True) >= 0.8 * without
