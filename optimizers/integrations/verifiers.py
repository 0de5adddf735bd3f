"""Training a generator of supplements on a stack for reinforcement learning, as an environment of `verifiers`.

A task is one prompt of the generator. The policy's one reply is read as a supplement, the frozen program runs with it,
and the metric's score is the reward. Needs `dspy-sgt[verifiers]`.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import dspy
import httpx

from optimizers.core.records import Query, Rollout
from optimizers.core.reward import Metric
from optimizers.integrations.supplement_rewards import SupplementRewards, SupplementTask
from sgt_modules.errors import SetupError, SGTError
from sgt_modules.generator import MAX_NEW_TOKENS
from sgt_modules.kinds import Kind, Supplement

try:
    import verifiers.v1 as vf
    from verifiers.v1.utils.loaders import load_environment as load_by_config
except ModuleNotFoundError as missing:
    raise SetupError(
        f"Expected the package verifiers 0.4, got none ({missing}). Run `pip install 'dspy-sgt[verifiers]'`."
    ) from missing

if TYPE_CHECKING:
    from pathlib import Path

    from sgt_modules.generator import GeneratorLike
    from sgt_modules.predictor import Scope
    from sgt_modules.prompts import Template

NO_THINKING = {"enable_thinking": False}
"""What chat templates are given in training and at inference; a template without that word ignores it."""

AnyTrace = vf.Trace[Any, Any, Any]

OpenRewards = Callable[[Any], SupplementRewards]
"""Returns the rewards for a task's configuration, the same object for equal ones."""


class SupplementData(vf.TaskData):
    """One prompt as it travels to workers: the text, and what finds its example and its place in the program again."""

    query: str
    index: int
    predictor: str
    turn: int = 0
    kind: str = ""
    bare: str = ""
    """The prompt without a request for a kind, if it is not `prompt`."""
    max_new_tokens: int = MAX_NEW_TOKENS

    @classmethod
    def of(cls, task: SupplementTask, max_new_tokens: int) -> SupplementData:
        """The data of a task."""
        query = task.query
        return cls(  # pyright: ignore[reportCallIssue]  (pydantic has a default for each other field)
            name=f"{query.predictor}/{query.index}" + (f"/{task.kind}" if task.kind else ""),
            prompt=task.prompt,
            query=query.id,
            index=query.index,
            predictor=query.predictor,
            turn=query.turn,
            kind=task.kind,
            bare=query.prompt if task.kind else "",
            max_new_tokens=max_new_tokens,
        )

    @property
    def as_query(self) -> Query:
        """The query that the prompt was made for."""
        return Query(self.query, self.index, self.predictor, self.bare or self.prompt_text, self.turn)


class OneReply(vf.Harness[vf.HarnessConfig]):
    """Sends the prompt as a user's message and takes the one reply. It runs in the environment's own process."""

    APPENDS_SYSTEM_PROMPT = True
    EXECUTES_CODE = False
    NEEDS_CONTAINER = False

    async def launch(
        self,
        ctx: vf.ModelContext,
        trace: AnyTrace,
        runtime: vf.Runtime,
        endpoint: str,
        secret: str,
        mcp_urls: dict[str, str],
        data: vf.TaskData,
    ) -> vf.ProgramResult:
        """Ask once. The reply's limit is the generator's, where the run's sampling sets none."""
        system, prompt = self.resolve_prompt(data)
        messages = [{"role": role, "content": text} for role, text in (("system", system), ("user", prompt)) if text]
        limit = getattr(data, "max_new_tokens", MAX_NEW_TOKENS)
        body = {"model": ctx.model, "messages": messages, "max_tokens": limit}
        headers = {"Authorization": f"Bearer {secret}"}
        async with httpx.AsyncClient(timeout=None, trust_env=False) as client:  # the run's own limits hold
            answer = await client.post(f"{endpoint}/chat/completions", json=body, headers=headers)
        return vf.ProgramResult(0 if answer.is_success else 1, "", "" if answer.is_success else answer.text)


class EnvironmentParts(NamedTuple):
    """What `verifiers` looks for in an installed package, to be named in its `__all__`."""

    tasks: type[vf.Taskset[Any, Any]]
    harness: type[OneReply]
    environment: type[vf.Env[Any]]


def environment_parts(
    open_rewards: OpenRewards,
    *,
    kinds: Sequence[Kind | str] = (),
    max_new_tokens: int = MAX_NEW_TOKENS,
    chat_template_kwargs: Mapping[str, object] | None = None,
    config: type[vf.TasksetConfig] = vf.TasksetConfig,
) -> EnvironmentParts:
    """Make the classes of an environment; `open_rewards` is called with the task options of a `config` when needed.

    `chat_template_kwargs` are sent with each request; by default those that turn thinking off.
    """
    words = dict(NO_THINKING if chat_template_kwargs is None else chat_template_kwargs)
    sampling = {"max_tokens": max_new_tokens, **({"chat_template_kwargs": words} if words else {})}

    task_config = type(config().task)

    class WriteSupplement(vf.Task[SupplementData, vf.State, task_config]):
        @vf.reward
        async def reward(self, trace: AnyTrace) -> float:
            """The metric's score of the program's answer with the supplement that the reply is."""
            rewards = open_rewards(self.config)
            supplement = rewards.read(_reply(trace), kind=self.data.kind, cut=_is_cut(trace))
            rollout = await rewards.ascore(self.data.as_query, supplement)
            for name, value in _figures(rollout, supplement, rewards).items():
                trace.record_metric(name, value)
            return _score(rollout)

    class Supplements(vf.Taskset[WriteSupplement, config]):
        def load(self) -> list[WriteSupplement]:
            """One task for each prompt."""
            tasks = open_rewards(self.config.task).tasks(kinds)
            return [WriteSupplement(SupplementData.of(each, max_new_tokens), self.config.task) for each in tasks]

    class SupplementEnvConfig(vf.EnvConfig):
        agent: vf.AgentConfig = vf.AgentConfig(
            runtime=vf.SubprocessConfig(), sampling=vf.SamplingConfig.model_validate(sampling)
        )

    class SupplementEnv(vf.Env[SupplementEnvConfig]):
        @property
        def rewards(self) -> SupplementRewards:
            """The program, its metric, and the store of its runs."""
            return open_rewards(cast("Any", self.taskset.config).task)

        async def run(self, task: vf.Task[Any, Any, Any], agents: vf.Agents) -> None:
            """The policy writes one supplement."""
            await agents.agent.run(task)

    return EnvironmentParts(Supplements, OneReply, SupplementEnv)


def load_environment(
    program: dspy.Module,
    metric: Metric,
    trainset: Sequence[dspy.Example],
    *,
    generator: GeneratorLike | None = None,
    kinds: Sequence[Kind | str] = (),
    chat_template_kwargs: Mapping[str, object] | None = None,
    store: str | Path | None = None,
    only: Sequence[str] | None = None,
    scope: Scope | None = None,
    template: Template | None = None,
    num_threads: int | None = None,
    max_errors: int = 10,
    max_actor_calls: int | None = None,
    max_cost_usd: float | None = None,
    max_run_seconds: float | None = None,
    version: str = "",
) -> vf.Env[Any]:
    """Make an environment of `verifiers` whose policy is the generator of supplements and whose world is the program.

    The environment lives in this process; its `config` opens it again here, as `run_eval` does. For workers in other
    processes, export a package (`sgt export RUN --to verifiers`).

    Args:
        program: The program with its frozen LM, which is the one that is set now.
        metric: As for `SGTTeleprompter`.
        trainset: The examples, with `with_inputs`.
        generator: The model to train, or a `SupplementGenerator` of it: decides prompt, limits and menu of the tasks.
        kinds: Ask for each of these kinds, as the warm start does. By default the prompt names no kind, as at
            inference.
        chat_template_kwargs: Words for the chat template; by default those that turn thinking off.
        store: Where rollouts are saved; `runs/elsewhere/rollouts.sqlite` by default.
        only: As for `SGTTeleprompter`.
        scope: As for `SGTTeleprompter`.
        template: As for `SGTTeleprompter`.
        num_threads: Program runs at once; `dspy.settings.num_threads` by default.
        max_errors: Runs in a row without a reward after which a reward is refused with an `SGTError`.
        max_actor_calls: The most calls of the program's LMs, those of this program in the store included.
        max_cost_usd: The most dollars for them.
        max_run_seconds: How long one run of the program may take.
        version: As for `SGTTeleprompter`.

    Raises:
        SetupError: something passed in cannot work; nothing has been paid for.

    >>> import tempfile
    >>> from sgt_modules.embedded import embedded_actor, embedded_generator, HouseTermsWorld, program
    >>> world = HouseTermsWorld(seed=0)
    >>> with dspy.context(lm=embedded_actor()), tempfile.TemporaryDirectory() as folder:
    ...     environment = load_environment(
    ...         program(), world.metric, world.train[:1], generator=embedded_generator(), store=f"{folder}/r.sqlite"
    ...     )
    ...     [task] = environment.taskset
    ...     environment.rewards.close()
    >>> print(task.data.prompt.partition(chr(10))[0])
    Write a supplement that helps another model with this task.
    """
    rewards = SupplementRewards(
        program,
        metric,
        trainset,
        generator=generator,
        store=store,
        only=only,
        scope=scope,
        template=template,
        num_threads=num_threads,
        max_errors=max_errors,
        max_actor_calls=max_actor_calls,
        max_cost_usd=max_cost_usd,
        max_run_seconds=max_run_seconds,
        version=version,
    )
    limit = rewards.generator.max_new_tokens
    parts = environment_parts(
        lambda _: rewards, kinds=kinds, max_new_tokens=limit, chat_template_kwargs=chat_template_kwargs
    )
    return load_installed(_install(parts))


def load_installed(name: str) -> vf.Env[Any]:
    """Load the environment of an installed package, such as one that `sgt export --to verifiers` wrote."""
    return load_by_config(vf.resolve_env_config({"taskset": {"id": name}}))


_NUMBERS = itertools.count(1)


def _install(parts: EnvironmentParts) -> str:
    """Make the parts a module of this process, as `verifiers` finds everything by a module's name; returns the name."""
    module = ModuleType(f"sgt_environment_{next(_NUMBERS)}", "An environment that was made in this process.")
    module.__dict__.update(parts._asdict(), __all__=list(parts._fields))
    sys.modules[module.__name__] = module
    return module.__name__


def _reply(trace: AnyTrace) -> str:
    """The policy's last reply as it wrote it; empty without one."""
    written = trace.assistant_messages
    return (written[-1].content or "") if written else ""


def _is_cut(trace: AnyTrace) -> bool:
    """Whether the token limit ended the reply: by the server's reason, or by the number of tokens."""
    answered = [call for call in trace.calls if call.error is None]
    if not answered:
        return False
    last, sampling = answered[-1], trace.agent.config.sampling
    limit, usage = None if sampling is None else sampling.max_tokens, last.usage
    return last.finish_reason == "length" or (
        limit is not None and usage is not None and usage.completion_tokens >= limit
    )


def _score(rollout: Rollout) -> float:
    """The reward; raises `SGTError` where a run has none, so that the trace has an error and no reward."""
    if rollout.reward is None:
        raise SGTError(f"The run of the program has no reward: {rollout.error}")
    return rollout.reward.score


def _figures(rollout: Rollout, supplement: Supplement, rewards: SupplementRewards) -> dict[str, float]:
    """What is recorded with each reward: the gain over no supplement where both have a reward, and the reply's form."""
    gain = rewards.gain(rollout)
    return {**({} if gain is None else {"gain": gain}), "silent": float(not supplement), "cut": float(supplement.cut)}
