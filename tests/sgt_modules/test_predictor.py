from __future__ import annotations

import asyncio
import random
from pathlib import Path

import dspy
import pytest
from runtime_fixtures import Scripted, scripted_lm, tiny_generator, tiny_model
from scripted import ScriptedGenerator

from sgt_modules import SupplementedPredictor, SupplementGenerator, supplement
from sgt_modules.episode import episode
from sgt_modules.errors import SetupError
from sgt_modules.kinds import SILENCE, Supplement, parse
from sgt_modules.prompts import Template, with_supplement
from sgt_modules.safety import harmless

HINT = Supplement("mistakes", "Mind the units.")


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> SupplementGenerator:
    return tiny_generator(tiny_model(tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture
def predictor(generator: SupplementGenerator) -> SupplementedPredictor:
    return SupplementedPredictor("question -> answer", generator=generator, role="self")


def sent(actor: Scripted) -> list[tuple[object, object]]:
    return [(request.system, request.messages) for request in actor.requests]


def test_the_actor_reads_the_generators_supplement(predictor: SupplementedPredictor) -> None:
    lm, actor = scripted_lm("answer")
    with dspy.context(lm=lm):
        assert predictor(question="2+2?").answer == "ok"
    prompt = predictor.generator.prompt_for(predictor.signature, {"question": "2+2?"})
    written = predictor.generator.write(prompt).render()
    assert harmless(written, predictor.signature.fields) in (actor.requests[0].messages[-1].text or "")


@pytest.mark.parametrize("demos", [[], [dspy.Example(question="1+1?", answer="2").with_inputs("question")]])
def test_without_a_supplement_the_actor_reads_exactly_what_the_plain_predictor_sends(
    generator: SupplementGenerator, demos: list[dspy.Example]
) -> None:
    plain = dspy.Predict("question -> answer", temperature=0.3)
    plain.demos = demos
    wrapped = SupplementedPredictor.wrap(plain, generator, "self")
    lm, actor = scripted_lm("answer")
    with dspy.context(lm=lm, trace=[]) as _, episode({}):
        plain(question="2+2?")
        wrapped(question="2+2?")
        asyncio.run(wrapped.acall(question="2+2?"))
        assert [inputs for _, inputs, _ in dspy.settings.trace] == [{"question": "2+2?"}] * 3
    first, *others = actor.requests
    assert others == [first, first]


@pytest.mark.parametrize("written", ["[none]", "[None] but why", "", " \n"])
def test_a_generator_that_writes_none_sends_the_plain_request(written: str) -> None:
    silent = ScriptedGenerator(lambda _: parse(written))
    plain = dspy.Predict("question -> answer")
    lm, actor = scripted_lm("answer")
    with dspy.context(lm=lm), episode(None) as run:
        plain(question="2+2?")
        wrapped = SupplementedPredictor.wrap(plain, silent, "self")
        wrapped(question="2+2?")
        asyncio.run(wrapped.acall(question="2+2?"))
    first, *others = actor.requests
    assert others == [first, first]
    assert run.supplements == {"self": [SILENCE, SILENCE]}
    assert not any(call.gated for call in run.calls)


def test_the_actor_is_shown_the_supplement_in_the_template(generator: SupplementGenerator) -> None:
    template = Template("A friend's hint, perhaps wrong.", "They say: {supplement} (unchecked)")
    predictor = SupplementedPredictor("question -> answer", generator=generator, template=template)
    lm, actor = scripted_lm("answer")
    with dspy.context(lm=lm, trace=[]), episode({"": HINT}):
        predictor(question="a")
        ((_, inputs, _),) = dspy.settings.trace
    (request,) = actor.requests
    assert inputs["supplement"] == f"They say: {HINT.render()} (unchecked)"
    assert inputs["supplement"] in (request.messages[-1].text or "")
    assert "A friend's hint, perhaps wrong." in str(request.system)


def test_silence_stays_silence_in_a_template(generator: SupplementGenerator) -> None:
    template = Template("A hint.", "They say: {supplement}")
    predictor = SupplementedPredictor("question -> answer", generator=generator, template=template)
    lm, actor = scripted_lm("answer")
    with dspy.context(lm=lm), episode({}):
        dspy.Predict("question -> answer")(question="a")
        predictor(question="a")
    assert actor.requests[1] == actor.requests[0]


def test_the_generator_s_prompt_names_the_role_in_a_program_and_none_for_a_bare_predictor(
    generator: SupplementGenerator,
) -> None:
    lm, _ = scripted_lm("reasoning", "answer")
    bare = supplement(dspy.Predict("question -> answer"), generator=generator)
    nested = supplement(dspy.ChainOfThought("question -> answer"), generator=generator)
    with dspy.context(lm=lm), episode({}) as run:
        bare(question="a")
        nested(question="a")
    assert "Step:" not in run.prompts["self"][0]
    assert run.prompts["predict"][0].splitlines()[2] == "Step: predict (question -> reasoning, answer)"


def test_a_template_is_saved_and_comes_back(predictor: SupplementedPredictor, tmp_path: Path) -> None:
    template = Template("A hint.", "They say: {supplement}")
    own = SupplementedPredictor("question -> answer", generator=predictor.generator, role="self", template=template)
    own.save(tmp_path / "program.json")
    predictor.load(tmp_path / "program.json")
    assert predictor.template == template
    assert predictor.signature.equals(own.signature)
    lm, actor = scripted_lm("answer")
    with dspy.context(lm=lm), episode({"self": HINT}):
        predictor(question="a")
    assert f"They say: {HINT.render()}" in (actor.requests[0].messages[-1].text or "")


def test_a_scope_that_is_none_is_refused(generator: SupplementGenerator) -> None:
    with pytest.raises(SetupError, match="Expected scope 'turn' or 'episode', got 'run'"):
        SupplementedPredictor("question -> answer", generator=generator, scope="run")  # pyright: ignore[reportArgumentType]


def test_an_episode_gives_each_role_its_supplement_and_records_what_was_asked(
    predictor: SupplementedPredictor,
) -> None:
    lm, actor = scripted_lm("answer")
    with dspy.context(lm=lm), episode({"self": HINT, "other": SILENCE}) as run:
        predictor(question="a")
        predictor(question="b")
    assert run.prompts == {
        "self": [predictor.generator.prompt_for(predictor.signature, {"question": each}) for each in "ab"]
    }
    assert run.supplements == {"self": [HINT, HINT]}
    assert all(HINT.render() in (request.messages[-1].text or "") for request in actor.requests)


def test_an_open_episode_records_what_the_generator_wrote(predictor: SupplementedPredictor) -> None:
    lm, _ = scripted_lm("answer")
    with dspy.context(lm=lm), episode(None) as run:
        predictor(question="a")
    assert run.supplements["self"] == [predictor.generator.write(run.prompts["self"][0])]


def test_episodes_reach_dspys_threads_and_do_not_mix(predictor: SupplementedPredictor) -> None:
    lm, _ = scripted_lm("answer")

    def run_one(text: str) -> list[Supplement]:
        with episode({"self": Supplement("free", text)}) as run:
            nested = dspy.Parallel(num_threads=2, disable_progress_bar=True)
            nested([(predictor, dspy.Example(question=q).with_inputs("question")) for q in "ab"])
        return run.supplements["self"]

    with dspy.context(lm=lm):
        executor = dspy.Parallel(num_threads=4, disable_progress_bar=True)
        outcomes = executor([(lambda text: run_one(text), (str(place),)) for place in range(6)])
    assert outcomes == [[Supplement("free", str(place))] * 2 for place in range(6)]


def test_a_supplement_among_the_inputs_wins(predictor: SupplementedPredictor) -> None:
    lm, actor = scripted_lm("answer")
    with dspy.context(lm=lm), episode({"self": HINT}) as run:
        predictor(question="a", supplement="My own.")
        predictor(question="a", supplement="")
    own, silent = (request.messages[-1].text or "" for request in actor.requests)
    assert "My own." in own
    assert HINT.text not in own + silent
    assert "supplement" not in silent
    assert run.prompts == {}


def test_the_callers_signature_demos_config_and_lm_pass_through(predictor: SupplementedPredictor) -> None:
    lm, actor = scripted_lm("verdict")
    signature = dspy.Signature("question -> verdict", "Judge.")
    demo = dspy.Example(question="old", supplement="s", verdict="no")
    with episode({"self": HINT}):
        result = predictor(question="a", signature=signature, demos=[demo], config={"temperature": 0.5}, lm=lm)
    assert result.verdict == "ok"
    (request,) = actor.requests
    assert (len(request.messages), request.config.temperature) == (3, 0.5)
    assert "Judge." in str(request.system)
    assert HINT.render() in (request.messages[-1].text or "")


def test_it_leaves_one_trace_entry_as_itself(predictor: SupplementedPredictor) -> None:
    lm, _ = scripted_lm("answer")
    with dspy.context(lm=lm, trace=[]), episode({"self": HINT}):
        predictor(question="a")
        ((traced, inputs, output),) = dspy.settings.trace
    assert traced is predictor
    assert (inputs, output.answer) == ({"question": "a", "supplement": HINT.render()}, "ok")


def test_the_generators_tokens_are_counted_with_the_actors(predictor: SupplementedPredictor) -> None:
    lm, _ = scripted_lm("answer")
    with dspy.context(lm=lm, track_usage=True):
        usage = predictor(question="a").get_lm_usage()
    assert set(usage) == {"scripted/actor", "tiny"}


def test_set_lm_and_get_lm_pass_the_generator_by(predictor: SupplementedPredictor) -> None:
    lm, _ = scripted_lm("answer")
    predictor.set_lm(lm)
    assert predictor.get_lm() is lm
    assert [name for name, _ in predictor.named_predictors()] == ["self"]


def test_saving_and_loading_keeps_demos_signature_and_generator(
    predictor: SupplementedPredictor, generator: SupplementGenerator, tmp_path: Path
) -> None:
    predictor.demos = [dspy.Example(question="q", answer="a")]
    predictor.signature = predictor.signature.with_instructions("Be brief.")
    predictor.save(tmp_path / "program.json")
    elsewhere = SupplementGenerator("not/used")
    restored = SupplementedPredictor("question -> answer", generator=elsewhere, role="self")
    restored.load(tmp_path / "program.json")
    assert restored.signature.equals(predictor.signature)
    assert restored.signature.instructions == "Be brief."
    assert len(restored.demos) == 1
    assert restored.generator.write("a") == generator.write("a")
    assert elsewhere.engine.model == "not/used"


def test_a_plain_predictors_state_is_refused_with_the_way_to_load_it(
    predictor: SupplementedPredictor, tmp_path: Path
) -> None:
    dspy.Predict("question -> answer").save(tmp_path / "plain.json")
    with pytest.raises(SetupError, match="fitting_state"):
        predictor.load(tmp_path / "plain.json")


def test_a_signature_with_such_a_field_and_a_subclass_are_refused(generator: SupplementGenerator) -> None:
    class Own(dspy.Predict):
        pass

    taken = dspy.Predict(with_supplement(dspy.Signature("question -> answer")))
    with pytest.raises(SetupError, match="Rename the field"):
        SupplementedPredictor.wrap(taken, generator, "self")
    with pytest.raises(SetupError, match="only="):
        SupplementedPredictor.wrap(Own("question -> answer"), generator, "self")


def test_wrapping_draws_nothing_from_the_global_random_generator(generator: SupplementGenerator) -> None:
    plain = dspy.Predict("question -> answer")
    before = random.getstate()
    SupplementedPredictor.wrap(plain, generator, "self").unwrap()
    assert random.getstate() == before


def test_best_of_n_and_refine_run_over_a_supplemented_program(generator: SupplementGenerator) -> None:
    lm, actor = scripted_lm("reasoning", "answer", "discussion", "advice")
    program = supplement(dspy.ChainOfThought("question -> answer"), generator=generator)
    program.set_lm(lm)
    best = dspy.BestOfN(module=program, N=2, reward_fn=lambda _inputs, _output: 0.0, threshold=1.0)
    with dspy.context(lm=lm), episode({"predict": HINT}):
        assert best(question="a").answer == "ok"
    assert len(actor.requests) == 2
    assert all(HINT.render() in (request.messages[-1].text or "") for request in actor.requests)
