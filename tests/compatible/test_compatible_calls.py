"""DSPy's ways of calling, watching, copying and keeping a program, on one whose predictors read supplements."""

from __future__ import annotations

import asyncio
import copy
import inspect
import io
import pickle
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from subprocess import run

import cloudpickle
import dspy
import pytest
from dspy.lm15 import Message, Request, Response, Usage, response_to_events
from dspy.streaming import StreamListener, StreamResponse
from dspy.teleprompt import Teleprompter
from dspy.teleprompt.bootstrap_trace import FailedPrediction, bootstrap_trace_data
from dspy.utils.callback import BaseCallback
from scripted import ScriptedGenerator, reply

from optimizers import SGTTeleprompter
from sgt_modules import SupplementedPredictor, SupplementGenerator, supplement, unsupplement
from sgt_modules.embedded import embedded_generator
from sgt_modules.kinds import Supplement
from sgt_modules.wrapping import supplemented_predictors, with_generator

NAMES = ["first", "steps[0].predict", "pair[0]", "named['last']"]
ADVICE = "Say it in other words."


class Echo:
    """An engine that answers each field with the last number of the request, word by word where it is streamed, and
    remembers its requests. Safe from many threads; copies of a program share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.requests: list[Request] = []

    def complete(self, request: Request) -> Response:
        with self._lock:
            self.requests.append(request)
        text = request.messages[-1].text or ""
        wanted = text.rpartition("Respond with")[2].split("[[ ## ")[1:-1]
        fields = {each.partition(" ")[0]: f"said {number(text)} so far" for each in wanted}
        return Response(
            id=None,
            model=request.model,
            message=Message.assistant(reply(**fields)),
            finish_reason="stop",
            usage=Usage(input_tokens=7, output_tokens=3, total_tokens=10),
        )

    def stream(self, request: Request) -> Iterator[object]:
        response = self.complete(request)
        begin, *_, end = response_to_events(response)
        yield begin
        for word in (response.message.text or "").split(" "):
            part = Message.assistant(f"{word} ")
            _, delta, *_ = response_to_events(
                Response(id=None, model=request.model, message=part, finish_reason="stop", usage=Usage())
            )
            yield delta
        yield end

    @property
    def texts(self) -> list[str]:
        """The last message of each request."""
        return [request.messages[-1].text or "" for request in self.requests]

    def lm(self) -> dspy.LM:
        return dspy.LM("echo/actor", engine=self, async_engine=AsyncEcho(self), cache=False, num_retries=0)

    def __deepcopy__(self, memo: dict[int, object]) -> Echo:
        return self


class AsyncEcho:
    """The same engine for coroutines."""

    def __init__(self, echo: Echo) -> None:
        self.echo = echo

    async def complete(self, request: Request) -> Response:
        return self.echo.complete(request)

    async def stream(self, request: Request) -> AsyncIterator[object]:
        for event in self.echo.stream(request):
            yield event

    def __deepcopy__(self, memo: dict[int, object]) -> AsyncEcho:
        return self


class Deep(dspy.Module):
    """Predictors as an attribute, in a list, a tuple and a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.first = dspy.Predict("question -> draft")
        self.steps = [dspy.ChainOfThought("draft -> draft2")]
        self.pair = (dspy.Predict("draft2 -> draft3"), "a label")
        self.named = {"last": dspy.Predict("draft3 -> answer")}

    def forward(self, question: str) -> dspy.Prediction:
        draft = self.first(question=question).draft
        draft2 = self.steps[0](draft=draft).draft2
        return self.named["last"](draft3=self.pair[0](draft2=draft2).draft3)

    async def aforward(self, question: str) -> dspy.Prediction:
        draft = (await self.first.acall(question=question)).draft
        draft2 = (await self.steps[0].acall(draft=draft)).draft2
        draft3 = (await self.pair[0].acall(draft2=draft2)).draft3
        return await self.named["last"].acall(draft3=draft3)


class Locked(Deep):
    """The same with an attribute that no deepcopy takes."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


def number(text: str) -> str:
    """The number that stands last in a text's inputs, without what the supplement says."""
    inputs = text.rpartition("[[ ## supplement ## ]]")[0] or text
    return next(word for word in reversed(inputs.replace("?", " ").split()) if word.isdigit())


def advice(prompt: str) -> Supplement:
    """A supplement that names the number it was written for."""
    return Supplement("free", f"{ADVICE} ({number(prompt)})")


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture(scope="module")
def generator() -> SupplementGenerator:
    return embedded_generator()


def scripted(program: dspy.Module) -> dspy.Module:
    return supplement(program, generator=ScriptedGenerator(advice))


def mark(row: str) -> pytest.MarkDecorator:
    return pytest.mark.compatible("Calls", row)


async def _asyncified(program: dspy.Module, question: str) -> dspy.Prediction:
    return await dspy.asyncify(program)(question=question)


async def _gathered(program: dspy.Module, question: str) -> dspy.Prediction:
    first, second = await asyncio.gather(program.acall(question=question), program.acall(question=question))
    assert first.answer == second.answer
    return first


WAYS: dict[str, Callable[[dspy.Module, str], dspy.Prediction]] = {
    "program(...)": lambda program, question: program(question=question),
    "acall": lambda program, question: asyncio.run(program.acall(question=question)),
    "forward": lambda program, question: program.forward(question=question),
    "aforward": lambda program, question: asyncio.run(program.aforward(question=question)),
    "asyncio.gather": lambda program, question: asyncio.run(_gathered(program, question)),
    "asyncify": lambda program, question: asyncio.run(_asyncified(program, question)),
    "syncify": lambda program, question: dspy.syncify(program)(question=question),
    "batch": lambda program, question: program.batch([dspy.Example(question=question).with_inputs("question")])[0],
}


@pytest.mark.parametrize("build", [lambda: dspy.Predict("question -> answer"), Deep, Locked])
@pytest.mark.parametrize("call", [pytest.param(call, id=way, marks=mark(way)) for way, call in WAYS.items()])
def test_every_way_to_call_asks_with_supplements_and_answers_as_before(
    call: Callable[[dspy.Module, str], dspy.Prediction], build: Callable[[], dspy.Module], echo: Echo
) -> None:
    plain = build()
    wrapped = scripted(plain)
    with dspy.context(lm=echo.lm()):
        expected = call(plain, "17?").answer
        asked, echo.requests = echo.texts, []
        assert call(wrapped, "17?").answer == expected == "said 17 so far"
    assert len(echo.texts) == len(asked)
    assert all(f"{ADVICE} (17)" in text for text in echo.texts)
    assert not any(ADVICE in text for text in asked)


def streamed(program: dspy.Module, lm: dspy.LM, **options: object) -> list[object]:
    async def collect() -> list[object]:
        with dspy.context(lm=lm):
            return [chunk async for chunk in dspy.streamify(program, **options)(question="17?")]

    return asyncio.run(collect())


def shown(chunks: list[object]) -> str:
    """The text that a user's stream shows."""
    return "".join(
        chunk.chunk if isinstance(chunk, StreamResponse) else chunk.choices[0].delta.content or ""
        for chunk in chunks
        if not isinstance(chunk, dspy.Prediction)
    )


@mark("streamify")
@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("build", [lambda: dspy.Predict("question -> answer"), Deep])
def test_a_stream_shows_what_the_plain_program_s_stream_shows(
    build: Callable[[], dspy.Module], is_async: bool, echo: Echo, generator: SupplementGenerator
) -> None:
    plain = build()
    expected = streamed(plain, echo.lm(), is_async_program=is_async)
    chunks = streamed(supplement(plain, generator=generator), echo.lm(), is_async_program=is_async)
    assert shown(chunks) == shown(expected)
    assert "said 17 so far" in shown(chunks)
    assert len(chunks) == len(expected)
    assert chunks[-1].answer == expected[-1].answer


@mark("streamify, without async")
def test_a_synchronous_stream_shows_the_same(echo: Echo, generator: SupplementGenerator) -> None:
    wrapped = supplement(Deep(), generator=generator)
    with dspy.context(lm=echo.lm()):
        chunks = list(dspy.streamify(wrapped, async_streaming=False)(question="17?"))
        expected = list(dspy.streamify(Deep(), async_streaming=False)(question="17?"))
    assert shown(chunks) == shown(expected)
    assert chunks[-1].answer == "said 17 so far"


@mark("StreamListener")
@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("by_hand", [False, True])
def test_a_listener_receives_its_field_of_a_supplemented_predictor(
    is_async: bool, by_hand: bool, echo: Echo, generator: SupplementGenerator
) -> None:
    wrapped = supplement(Deep(), generator=generator)
    where = {"predict": wrapped.steps[0].predict, "predict_name": "steps[0].predict"} if by_hand else {}
    listeners = [StreamListener("draft2", **where), StreamListener("answer")]
    chunks = streamed(wrapped, echo.lm(), is_async_program=is_async, stream_listeners=listeners)
    heard = [chunk for chunk in chunks if isinstance(chunk, StreamResponse)]
    assert {(each.predict_name, each.signature_field_name) for each in heard} == {
        ("steps[0].predict", "draft2"),
        ("named['last']", "answer"),
    }
    assert shown(heard) == "said 17 so far" * 2


def used(program: dspy.Module, echo: Echo) -> dict[str, dict[str, object]]:
    with dspy.context(lm=echo.lm()), dspy.track_usage() as tracker:
        program(question="17?")
    return tracker.get_total_tokens()


@mark("track_usage")
def test_usage_counts_the_generator_under_its_own_name_and_the_actor_as_before(
    echo: Echo, generator: SupplementGenerator
) -> None:
    plain = used(Deep(), echo)
    wrapped = used(supplement(Deep(), generator=generator), echo)
    assert wrapped.keys() == {"echo/actor", "generator"}
    assert wrapped["echo/actor"] == plain["echo/actor"]
    tokens = wrapped["generator"]
    assert tokens["total_tokens"] == tokens["prompt_tokens"] + tokens["completion_tokens"] > 0


@mark("settings.track_usage")
@pytest.mark.parametrize("way", ["program(...)", "acall"])
def test_a_prediction_s_usage_holds_both_models(way: str, echo: Echo, generator: SupplementGenerator) -> None:
    with dspy.context(lm=echo.lm(), track_usage=True):
        plain = WAYS[way](Deep(), "17?").get_lm_usage()
        wrapped = WAYS[way](supplement(Deep(), generator=generator), "17?").get_lm_usage()
    assert wrapped.keys() == {"echo/actor", "generator"}
    assert wrapped["echo/actor"] == plain["echo/actor"]


class Listener(BaseCallback):
    """Notes each event with the class it came from."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def _starts(self, what: str, instance: object) -> None:
        name = type(instance).__name__
        self.events.append((what, "Predict" if name == "SupplementedPredictor" else name))

    def on_module_start(self, call_id: str, instance: object, inputs: object) -> None:
        self._starts("module", instance)

    def on_module_end(self, call_id: str, outputs: object, exception: object = None) -> None:
        self.events.append(("module end", type(outputs).__name__))

    def on_lm_start(self, call_id: str, instance: dspy.LM, inputs: object) -> None:
        self._starts("lm", instance)
        assert instance.model == "echo/actor"

    def on_lm_end(self, call_id: str, outputs: object, exception: object = None) -> None:
        self.events.append(("lm end", type(outputs).__name__))

    def on_adapter_format_start(self, call_id: str, instance: object, inputs: object) -> None:
        self._starts("format", instance)

    def on_adapter_parse_start(self, call_id: str, instance: object, inputs: object) -> None:
        self._starts("parse", instance)


@mark("callbacks")
@pytest.mark.parametrize("way", ["program(...)", "acall"])
@pytest.mark.parametrize("build", [lambda: dspy.Predict("question -> answer"), Deep, Locked])
def test_callbacks_hear_the_same_events_and_each_call_of_the_generator(
    build: Callable[[], dspy.Module], way: str, echo: Echo, generator: SupplementGenerator
) -> None:
    heard, plain = Listener(), build()
    for program in (plain, supplement(plain, generator=generator)):
        heard.events.append(("program", ""))
        with dspy.context(lm=echo.lm(), callbacks=[heard]):
            WAYS[way](program, "17?")
    wrapped = heard.events.index(("program", ""), 1)
    of_generator = [("module", "SupplementGenerator"), ("module end", "Sample")]
    assert [each for each in heard.events[wrapped:] if each not in of_generator] == heard.events[:wrapped]
    calls = heard.events.count(("module", "Predict")) // 2
    assert heard.events.count(of_generator[0]) == heard.events.count(of_generator[1]) == calls
    for at in (n for n, each in enumerate(heard.events) if each == of_generator[0]):
        assert heard.events[at - 1] == ("module", "Predict")


@mark("callbacks")
def test_a_callback_of_one_module_comes_along(echo: Echo, generator: SupplementGenerator) -> None:
    heard, program = Listener(), Deep()
    program.callbacks = [heard]
    program.first.callbacks = [heard]
    with dspy.context(lm=echo.lm()):
        supplement(program, generator=generator)(question="17?")
    assert [event for event in heard.events if event[0] == "module"] == [("module", "Deep"), ("module", "Predict")]


@mark("inspect_history")
def test_histories_hold_the_actor_s_calls_and_nothing_of_the_generator(
    echo: Echo, generator: SupplementGenerator
) -> None:
    lm, wrapped = echo.lm(), supplement(Deep(), generator=generator)
    with dspy.context(lm=lm):
        wrapped(question="17?")
    assert len(lm.history) == len(wrapped.history) == 4
    assert [len(each.history) for _, each in supplemented_predictors(wrapped)] == [1, 1, 1, 1]
    assert {entry["model"] for entry in wrapped.history} == {"echo/actor"}
    printed = io.StringIO()
    dspy.inspect_history(n=4, file=printed)
    assert printed.getvalue().count("[[ ## supplement ## ]]") >= 4
    assert "Write a supplement that helps" not in printed.getvalue()


@mark("inspect_history")
def test_a_wrapped_copy_starts_with_an_empty_history_and_leaves_the_user_s_alone(echo: Echo) -> None:
    plain = Deep()
    with dspy.context(lm=echo.lm()):
        plain(question="17?")
        wrapped = scripted(plain)
        wrapped(question="18?")
    assert len(plain.history) == 4
    assert len(plain.first.history) == 1
    assert len(wrapped.first.history) == 1


class Compiling(BaseCallback):
    """Notes what is compiled."""

    def __init__(self) -> None:
        self.compiled: list[object] = []

    def on_compile_start(self, call_id: str, instance: object, inputs: object) -> None:
        self.compiled.append(instance)


@mark("MLflow autolog")
def test_sgt_keeps_the_conventions_by_which_mlflow_logs_an_optimizer(generator: SupplementGenerator) -> None:
    """MLflow patches `compile` of Teleprompter's direct subclasses, reads get_params(), and listens to callbacks."""
    assert SGTTeleprompter in Teleprompter.__subclasses__()
    assert "compile" in vars(SGTTeleprompter)
    expected = inspect.signature(Teleprompter.compile).parameters
    offered = inspect.signature(SGTTeleprompter.compile).parameters
    assert list(offered) == [*(name for name in expected if name != "kwargs"), "logged"]
    assert all(offered[name].kind == expected[name].kind for name in offered if name in expected)
    assert offered["logged"].default == ()
    sgt = SGTTeleprompter(lambda example, prediction: True, generator, display_progress=False)
    assert {"metric", "recipe"} <= sgt.get_params().keys()
    heard = Compiling()
    with dspy.context(callbacks=[heard]), pytest.raises(ValueError, match="train"):
        sgt.compile(Deep(), trainset=[])
    assert heard.compiled == [sgt]


@mark("MLflow autolog")
def test_nothing_of_ours_imports_mlflow() -> None:
    ours = "import sys, sgt_modules, optimizers; raise SystemExit('mlflow' in sys.modules)"
    assert run([sys.executable, "-c", ours], check=False).returncode == 0


COPIES: dict[str, Callable[[dspy.Module], dspy.Module]] = {
    "deepcopy": lambda program: program.deepcopy(),
    "copy.deepcopy": copy.deepcopy,
    "reset_copy": lambda program: program.reset_copy(),
}


@pytest.mark.parametrize(
    ("how", "build"),
    [
        pytest.param(how, build, id=f"{how}-{build.__name__}", marks=mark(how))
        for how in COPIES
        for build in (Deep, Locked)
        if not (how == "copy.deepcopy" and build is Locked)  # Python cannot copy a lock
    ],
)
def test_a_copy_shares_the_generator_and_nothing_else(
    how: str, build: Callable[[], dspy.Module], echo: Echo, generator: SupplementGenerator
) -> None:
    user = build()
    for predictor in user.predictors():
        predictor.demos = [dspy.Example(question="1?", answer="one")]
    wrapped = supplement(user, generator=generator)
    new = COPIES[how](wrapped)
    for (name, one), (same, two) in zip(supplemented_predictors(wrapped), supplemented_predictors(new), strict=True):
        assert name == same == two.role
        assert one is not two
        assert one.generator is two.generator is generator
        assert one.demos is not two.demos
        assert len(two.demos) == (0 if how == "reset_copy" else 1)
        two.demos.append("more")
        two.signature = two.signature.with_instructions("New.")
    assert all(len(each.demos) == 1 for each in [*user.predictors(), *wrapped.predictors()])
    assert not any("New." in each.signature.instructions for each in [*user.predictors(), *wrapped.predictors()])
    with dspy.context(lm=echo.lm()):
        assert new(question="17?").answer == "said 17 so far"
    assert sum(each.startswith("New.") for each in systems(echo)) == 0
    assert all("New." in each for each in systems(echo))


def systems(echo: Echo) -> list[str]:
    return [str(request.system) for request in echo.requests]


@mark("deepcopy")
def test_a_copy_of_a_locked_program_is_copied_without_new_warnings(
    generator: SupplementGenerator, caplog: pytest.LogCaptureFixture
) -> None:
    Locked().deepcopy()
    before = [record.message for record in caplog.records]
    caplog.clear()
    supplement(Locked(), generator=generator).deepcopy()
    assert [record.message for record in caplog.records] == before


@mark("pickle, of a generator")
def test_a_pickled_generator_is_a_reference_and_comes_back_as_one(generator: SupplementGenerator) -> None:
    kept = pickle.dumps([generator, generator])
    assert len(kept) < 2_000
    one, other = pickle.loads(kept)
    assert one is other
    assert one.dump_state() == generator.dump_state()


@mark("cloudpickle")
def test_a_cloudpickle_holds_a_reference_to_the_generator(echo: Echo, generator: SupplementGenerator) -> None:
    """The standard pickle takes no signature that is made while the program runs, supplemented or not."""
    wrapped = supplement(Deep(), generator=generator)
    kept = cloudpickle.dumps(wrapped)
    assert len(kept) < 20_000
    restored = pickle.loads(kept)
    assert [name for name, _ in supplemented_predictors(restored)] == NAMES
    assert {each.generator.engine.fingerprint for _, each in supplemented_predictors(restored)} == {
        generator.engine.fingerprint
    }
    assert len({id(each.generator) for _, each in supplemented_predictors(restored)}) == 1
    with dspy.context(lm=echo.lm()):
        assert restored(question="17?").answer == wrapped(question="17?").answer
    assert echo.requests[:4] == echo.requests[4:]


@mark("save and dspy.load, the whole program")
def test_a_whole_program_is_saved_small_and_loaded_as_it_was(
    tmp_path: Path, echo: Echo, generator: SupplementGenerator
) -> None:
    wrapped = supplement(Deep(), generator=generator)
    wrapped.first.demos = [dspy.Example(question="1?", draft="one").with_inputs("question")]
    wrapped.save(tmp_path / "saved", save_program=True)
    assert (tmp_path / "saved" / "program.pkl").stat().st_size < 20_000
    restored = dspy.load(str(tmp_path / "saved"), allow_pickle=True)
    with dspy.context(lm=echo.lm()):
        assert restored(question="17?").answer == wrapped(question="17?").answer
    assert echo.requests[:4] == echo.requests[4:]


@pytest.mark.parametrize(
    "ending",
    [pytest.param("json", marks=mark("save and load, JSON")), pytest.param("pkl", marks=mark("save and load, pickle"))],
)
def test_a_state_file_is_small_and_restores_what_was_learned(
    ending: str, tmp_path: Path, echo: Echo, generator: SupplementGenerator
) -> None:
    wrapped = supplement(Deep(), generator=generator)
    wrapped.first.demos = [dspy.Example(question="1?", draft="one").with_inputs("question")]
    wrapped.pair[0].signature = wrapped.pair[0].signature.with_instructions("Be brief.")
    wrapped.save(tmp_path / f"state.{ending}")
    assert (tmp_path / f"state.{ending}").stat().st_size < 20_000
    restored = supplement(Deep(), generator=generator)
    restored.load(tmp_path / f"state.{ending}", allow_pickle=True)
    with dspy.context(lm=echo.lm()):
        assert restored(question="17?").answer == wrapped(question="17?").answer
    assert echo.requests[:4] == echo.requests[4:]


@mark("64 threads")
@pytest.mark.parametrize("build", [lambda: dspy.Predict("question -> answer"), Deep, Locked])
def test_in_64_threads_every_answer_belongs_to_its_own_question_and_supplement(
    build: Callable[[], dspy.Module], echo: Echo
) -> None:
    wrapped = scripted(build())
    questions = [dspy.Example(question=f"{n}?").with_inputs("question") for n in range(1000, 1128)]
    with dspy.context(lm=echo.lm()):
        answers = dspy.Parallel(num_threads=64, disable_progress_bar=True)([(wrapped, each) for each in questions])
    assert [answer.answer for answer in answers] == [f"said {n} so far" for n in range(1000, 1128)]
    assert all(f"{ADVICE} ({number(text)})" in text for text in echo.texts)
    assert len(echo.texts) == 128 * len(wrapped.predictors())


@pytest.mark.slow
@mark("64 threads")
def test_64_threads_share_a_real_generator(echo: Echo, generator: SupplementGenerator) -> None:
    wrapped = supplement(dspy.Predict("question -> answer"), generator=generator)
    questions = [dspy.Example(question=f"{n}?").with_inputs("question") for n in range(100, 164)]
    with dspy.context(lm=echo.lm()):
        dspy.Parallel(num_threads=64, disable_progress_bar=True)([(wrapped, each) for each in questions])
        together, echo.requests = {number(text): text for text in echo.texts}, []
        for question in questions:
            wrapped(**question.inputs())
    assert together == {number(text): text for text in echo.texts}


@mark("dspy.context")
def test_each_thread_s_context_decides_who_acts(generator: SupplementGenerator) -> None:
    wrapped, actors = supplement(Deep(), generator=generator), [Echo() for _ in range(8)]

    def ask(place: int) -> str:
        with dspy.context(lm=actors[place].lm()):
            return wrapped(question=f"{place}?").answer

    pairs = [(lambda place: ask(place), (place,)) for place in range(8)]
    answers = dspy.Parallel(num_threads=8, disable_progress_bar=True)(pairs)
    assert answers == [f"said {place} so far" for place in range(8)]
    assert [len(actor.requests) for actor in actors] == [4] * 8


def traced(program: dspy.Module, echo: Echo) -> list[dict[str, object]]:
    examples = [dspy.Example(question=f"{n}?").with_inputs("question") for n in (17, 18)]
    with dspy.context(lm=echo.lm()):
        return bootstrap_trace_data(program, examples, metric=lambda *_: 1.0, num_threads=2)


@mark("bootstrap_trace_data")
def test_traces_name_the_supplemented_predictors_with_what_they_read(echo: Echo) -> None:
    plain, wrapped = Deep(), scripted(Deep())
    for before, after in zip(traced(plain, echo), traced(wrapped, echo), strict=True):
        assert [step[0] for step in after["trace"]] == wrapped.predictors()
        for (_, old, said), (_, new, says) in zip(before["trace"], after["trace"], strict=True):
            assert new.keys() == {*old, "supplement"}
            assert dict(says) == dict(said)


BUILDERS = [
    pytest.param(lambda: dspy.Predict("question -> answer"), id="root"),
    pytest.param(Deep, id="deep"),
    pytest.param(Locked, id="locked"),
]


class Outer(dspy.Module):
    """A program with another program inside."""

    def __init__(self, inner: dspy.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, question: str) -> dspy.Prediction:
        return self.inner(question=question)


@mark("bootstrap_trace_data")
@pytest.mark.parametrize("build", BUILDERS)
def test_a_plain_program_that_was_traced_can_be_wrapped(build: Callable[[], dspy.Module], echo: Echo) -> None:
    """bootstrap_trace_data leaves the program's own forward behind as an attribute of the instance."""
    plain = build()
    traced(plain, echo)
    echo.requests.clear()
    with dspy.context(lm=echo.lm()):
        scripted(plain)(question="19?")
    assert echo.texts
    assert all(f"{ADVICE} (19)" in text for text in echo.texts)


@mark("bootstrap_trace_data")
@pytest.mark.parametrize("inner", [Deep, Locked])
def test_a_part_of_a_program_that_was_traced_by_itself_can_be_wrapped(
    inner: Callable[[], dspy.Module], echo: Echo
) -> None:
    part = inner()
    traced(part, echo)
    echo.requests.clear()
    with dspy.context(lm=echo.lm()):
        scripted(Outer(part))(question="19?")
    assert len(echo.texts) == 4
    assert all(f"{ADVICE} (19)" in text for text in echo.texts)


@mark("bootstrap_trace_data")
@pytest.mark.parametrize("build", BUILDERS)
def test_a_wrapped_program_that_was_traced_takes_another_generator_and_can_be_unwrapped(
    build: Callable[[], dspy.Module], echo: Echo
) -> None:
    wrapped = scripted(build())
    traced(wrapped, echo)
    echo.requests.clear()
    other = ScriptedGenerator(lambda prompt: Supplement("free", "Quite another."))
    with dspy.context(lm=echo.lm()):
        with_generator(wrapped, other)(question="19?")
        swapped, echo.requests = echo.texts, []
        unsupplement(wrapped)(question="19?")
    assert all("Quite another." in text for text in swapped)
    assert not any("supplement" in text for text in echo.texts)


@mark("bootstrap_trace_data")
@pytest.mark.parametrize(
    "text",
    [
        pytest.param(ADVICE, id="supplement"),
        pytest.param("", id="silence"),
    ],
)
def test_a_reply_that_cannot_be_read_is_traced_as_a_failure(text: str) -> None:
    class Garbled(Echo):
        def complete(self, request: Request) -> Response:
            return Response(
                id=None,
                model=request.model,
                message=Message.assistant("no fields here"),
                finish_reason="stop",
                usage=Usage(),
            )

    wrapped = supplement(
        dspy.Predict("question -> answer: int, reason: str"),
        generator=ScriptedGenerator(lambda prompt: Supplement("free", text)),
    )
    with dspy.context(lm=Garbled().lm(), adapter=dspy.ChatAdapter(use_json_adapter_fallback=False)):
        (row,) = bootstrap_trace_data(
            wrapped,
            [dspy.Example(question="17?").with_inputs("question")],
            metric=lambda *_: 1.0,
            capture_failed_parses=True,
            raise_on_error=False,
        )
    assert isinstance(row["prediction"], FailedPrediction)
    assert row["trace"][-1][0] is wrapped


@mark("set_lm and get_lm")
def test_set_lm_and_get_lm_concern_the_actor_only(echo: Echo, generator: SupplementGenerator) -> None:
    wrapped, lm = supplement(Deep(), generator=generator), echo.lm()
    wrapped.set_lm(lm)
    assert wrapped.get_lm() is lm
    assert wrapped(question="17?").answer == "said 17 so far"
    assert all(each.generator is generator for _, each in supplemented_predictors(wrapped))


@mark("only=[...]")
def test_only_the_named_predictors_read_supplements(echo: Echo) -> None:
    wrapped = supplement(Deep(), generator=ScriptedGenerator(advice), only=["pair[0]"])
    with dspy.context(lm=echo.lm()):
        assert wrapped(question="17?").answer == "said 17 so far"
    assert [ADVICE in text for text in echo.texts] == [False, False, True, False]
    assert [name for name, _ in wrapped.named_predictors()] == NAMES
    assert [isinstance(each, SupplementedPredictor) for each in wrapped.predictors()] == [False, False, True, False]


class Node(dspy.Module):
    """A program that may hold another of its own class, and calls it by its `forward`, as DSPy advises against."""

    def __init__(self, inner: dspy.Module | None = None) -> None:
        super().__init__()
        self.inner = inner
        self.answer = dspy.Predict("question -> answer")

    def forward(self, question: str) -> dspy.Prediction:
        return self.inner.forward(question=question) if self.inner else self.answer(question=question)


@mark("forward")
def test_a_wrapped_part_of_its_caller_s_own_class_can_be_called_by_its_forward(echo: Echo) -> None:
    with dspy.context(lm=echo.lm()):
        assert Node(scripted(Node()))(question="17?").answer == "said 17 so far"


@pytest.fixture
def cache_in_memory() -> Iterator[None]:
    before = dspy.cache
    dspy.configure_cache(enable_disk_cache=False)
    yield
    dspy.cache = before


@mark("dspy.cache")
def test_equal_supplements_are_answered_from_dspy_s_cache_and_others_are_not(echo: Echo, cache_in_memory: None) -> None:
    said = ["One."]
    wrapped = supplement(
        dspy.Predict("question -> answer"), generator=ScriptedGenerator(lambda prompt: Supplement("free", said[0]))
    )
    with dspy.context(lm=dspy.LM("echo/actor", engine=echo, num_retries=0)):
        wrapped(question="17?")
        wrapped(question="17?")
        assert len(echo.requests) == 1
        said[0] = "Two."
        wrapped(question="17?")
    assert len(echo.requests) == 2
