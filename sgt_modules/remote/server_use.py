"""What a user passes to use a server of `sgt up`: an endpoint, the Python that makes it, and options of `sgt`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dspy

from sgt_modules.errors import SetupError
from sgt_modules.remote.adapter_servers import SGLangLoRA, VLLMLoRA
from sgt_modules.remote.endpoint import Endpoint
from sgt_modules.remote.engines import ENGINES, EngineName
from sgt_modules.remote.publishing import ServedFolder
from sgt_modules.saving.weights import resolve

RETRIES = 8
"""How often an LM repeats a request, with growing pauses: enough for a server that starts again within a minute."""

_TEMPLATE_FILES = ("chat_template.jinja", "tokenizer_config.json")
_NO_THINKING = {"chat_template_kwargs": {"enable_thinking": False}}


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model behind a server on this machine.

    Args:
        engine: What serves it.
        model: Its hub id or folder, which is also its name on the server.
        address: The server's address, up to `/v1`.
    """

    engine: EngineName
    model: str
    address: str

    @classmethod
    def parse(cls, model: str, place: str) -> ServedModel:
        """Read a place such as `vllm@http://127.0.0.1:8000/v1`. Raises `SetupError` for another form.

        >>> ServedModel.parse("Qwen/Qwen3-1.7B", "vllm@http://127.0.0.1:8000/v1").address
        'http://127.0.0.1:8000/v1'
        """
        engine, _, address = place.partition("@")
        if engine not in ENGINES or not address.startswith(("http://", "https://")):
            raise SetupError(
                f"Expected a server as ENGINE@ADDRESS with one of {', '.join(ENGINES)}, such as "
                f"vllm@http://127.0.0.1:8000/v1, got {place!r}. Write what `sgt up` prints."
            )
        return cls(engine, model, address.rstrip("/"))

    @property
    def place(self) -> str:
        """The engine and the address, as `parse` reads them."""
        return f"{self.engine}@{self.address}"


def served_generator(served: ServedModel) -> Endpoint:
    """The endpoint of a generator behind such a server, which trained weights are published to.

    Raises `GeneratorNotFoundError` if the model's files are not on this machine.
    """
    settings: dict[str, Any] = {"api_base": served.address, "api_key": "none", "num_retries": RETRIES}
    if can_think(resolve(served.model)):
        settings["extra_body"] = _NO_THINKING
    lm = dspy.LM(f"openai/{served.model}", **settings)
    if served.engine == "transformers":
        return Endpoint(lm, publish=ServedFolder(served.model), tokenizer=served.model)
    return Endpoint(lm, publish=VLLMLoRA(lm) if served.engine == "vllm" else SGLangLoRA(lm))


def can_think(folder: Path) -> bool:
    """Whether a model's chat template has a switch `enable_thinking`, as Qwen3's has.

    >>> can_think(Path("no/such/folder"))
    False
    """
    files = [folder / name for name in _TEMPLATE_FILES]
    return any("enable_thinking" in each.read_text(encoding="utf-8") for each in files if each.is_file())


def python_for(generator: ServedModel | None, lm: ServedModel | None, *, thinks: bool = False) -> str:
    """The Python that uses these servers; `thinks` if the generator's template has a switch for thinking.

    >>> print(python_for(None, ServedModel("vllm", "Qwen/Qwen3-8B", "http://127.0.0.1:8001/v1")))
    import dspy
    <BLANKLINE>
    actor = "openai/Qwen/Qwen3-8B"
    lm = dspy.LM(actor, api_base="http://127.0.0.1:8001/v1", api_key="none", num_retries=8)
    dspy.configure(lm=lm)
    """
    lines = ["import dspy"]
    if generator is not None:
        publish = {"vllm": "VLLMLoRA", "sglang": "SGLangLoRA", "transformers": "ServedFolder"}[generator.engine]
        if generator.engine == "transformers":
            endpoint = "Endpoint(lm, publish=ServedFolder(model), tokenizer=model)"
        else:
            endpoint = f"Endpoint(lm, publish={publish}(lm))"
        address, body = _quote(generator.address), f", extra_body={_NO_THINKING}" if thinks else ""
        lines += [
            "from optimizers import SGTTeleprompter",
            "from optimizers.training.trl_trainer import TRLTrainer",
            f"from sgt_modules import Endpoint, {publish}",
            "",
            f"model = {_quote(generator.model)}",
            f'lm = dspy.LM(f"openai/{{model}}", api_base={address}, api_key="none", num_retries={RETRIES}{body})',
            f"generator = {endpoint}",
            "sgt = SGTTeleprompter(metric, generator, trainer=TRLTrainer(model))  # metric: yours",
        ]
    if lm is not None:
        lines += [
            "",
            f"actor = {_quote(f'openai/{lm.model}')}",
            f'lm = dspy.LM(actor, api_base={_quote(lm.address)}, api_key="none", num_retries={RETRIES})',
            "dspy.configure(lm=lm)",
        ]
    return "\n".join(lines)


def options_for(generator: ServedModel | None, lm: ServedModel | None) -> list[str]:
    """The options of `sgt compile` and `sgt estimate` that use these servers.

    >>> options_for(None, ServedModel("vllm", "Qwen/Qwen3-8B", "http://127.0.0.1:8001/v1"))
    ['--lm', 'openai/Qwen/Qwen3-8B', '--api-base', 'http://127.0.0.1:8001/v1']
    """
    words = [] if generator is None else ["--generator", generator.model, "--generator-at", generator.place]
    return words + ([] if lm is None else ["--lm", f"openai/{lm.model}", "--api-base", lm.address])


def _quote(text: str) -> str:
    """Python's literal of a text, in double quotes where that is possible."""
    return repr(text) if '"' in text or "\\" in text else f'"{text}"'
