"""Chat messages as the model reads them: through its own chat template, the same on every day and in training."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from sgt_modules.errors import GeneratorNotFoundError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Messages = Sequence[Mapping[str, str]]
"""Each with its `role` (`system`, `user`, `assistant`) and its `content`."""

_ONE_DAY = (
    "{% macro strftime_now(form) %}{{ form | replace('%d', '26') | replace('%B', 'July') | replace('%b', 'Jul')"
    " | replace('%m', '07') | replace('%Y', '2024') | replace('%y', '24') }}{% endmacro %}"
)
"""What stands before a template that asks for today's date: it is always the 26th of July 2024, which Llama's own
template falls back to, as a prompt must not change overnight."""


_OPEN_THOUGHT = re.compile(r"<think(?:ing)?>\s*\Z", re.I)
_WRITES = re.compile(r"CausalLM|LMHead|ConditionalGeneration")
_TEMPLATE_FILES = ("chat_template.jinja", "tokenizer_config.json")


def render_chat(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> str:
    """Messages as the text after which the model writes its reply, thinking off.

    Training and inference both go through here, so that they see the same tokens. A system text moves into the first
    user message where the template refuses the role or leaves it out, and neighbours of one role become one message
    where it wants roles to alternate. Raises `GeneratorNotFoundError` for a tokenizer without a chat template, or with
    one that takes none of this.
    """
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        raise GeneratorNotFoundError(
            f"Expected a model with a chat template, got {tokenizer.name_or_path!r} without one. "
            "Use an instruction-tuned model."
        )
    try:
        text = _applied(tokenizer, messages)
        if all(message["content"].strip() in text for message in messages if message["role"] == "system"):
            return text
    except TemplateError:
        pass
    try:
        return _applied(tokenizer, alternating(messages))
    except TemplateError as error:
        raise GeneratorNotFoundError(
            f"Expected a chat template that takes the roles {[each['role'] for each in messages]}, got that of "
            f"{tokenizer.name_or_path!r}, which says: {error}. Use a model made for chat."
        ) from error


def check_writes(folder: Path) -> None:
    """Raise `GeneratorNotFoundError` for a config.json that transformers cannot read, or a model that writes no text.

    No weight is read.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # a config.json of another form makes transformers raise anything
        first = str(error).strip().partition("\n")[0]
        raise GeneratorNotFoundError(
            f"Expected a config.json that transformers reads in {str(folder)!r}, got {type(error).__name__}: {first} "
            "Save the model again with save_pretrained(), or update transformers."
        ) from error
    kinds = [str(each) for each in config.architectures or ()]
    if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or (kinds and not any(map(_WRITES.search, kinds))):
        raise GeneratorNotFoundError(
            f"Expected a model that writes text (...ForCausalLM) in {str(folder)!r}, got "
            f"{', '.join(kinds) or config.model_type!r}. Pass an instruction-tuned language model's folder."
        )


def check_reads(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise `GeneratorNotFoundError` for a tokenizer that knows no word, or that is not made for chats."""
    if not tokenizer.encode(render_chat(tokenizer, [{"role": "user", "content": "Hello."}])):
        raise GeneratorNotFoundError(
            f"Expected a tokenizer in {str(folder)!r}, got one without any tokens. Save it there with "
            "tokenizer.save_pretrained()."
        )


def alternating(messages: Messages) -> list[dict[str, str]]:
    """The same conversation without system messages: user and assistant in turns, beginning with the user.

    >>> alternating([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}])
    [{'role': 'user', 'content': 'Be brief.\\n\\nHi'}]
    """
    turns: list[dict[str, str]] = []
    for message in messages:
        role = "user" if message["role"] == "system" else message["role"]
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += f"\n\n{message['content']}"
        else:
            turns.append({"role": role, "content": message["content"]})
    return turns


class Reader:
    """A model's tokenizer, loaded at first use; engines of one base share it. Safe for many threads.

    >>> Reader(trust_remote_code=False).loaded
    False
    """

    def __init__(self, *, trust_remote_code: bool) -> None:
        self._trust = trust_remote_code
        self._loading, self._encoding = threading.Lock(), threading.Lock()
        self._tokenizer: PreTrainedTokenizerBase | None = None

    @property
    def loaded(self) -> bool:
        """Whether the tokenizer is in memory."""
        return self._tokenizer is not None

    def tokenizer(self, folder: Path) -> PreTrainedTokenizerBase:
        """The tokenizer in a model's folder; a folder's is read once. Raises `GeneratorNotFoundError`."""
        with self._loading:
            tokenizer = self._tokenizer
            if tokenizer is None:
                from transformers import AutoTokenizer

                try:
                    tokenizer = cast(
                        "PreTrainedTokenizerBase",
                        AutoTokenizer.from_pretrained(folder, trust_remote_code=self._trust, local_files_only=True),
                    )
                except ValueError as error:
                    raise GeneratorNotFoundError(
                        f"Expected a tokenizer in {str(folder)!r}, got {type(error).__name__}: {error} Save it there "
                        "with save_pretrained(); if it is code of the model's own that you trust, pass "
                        "LocalEngine(..., trust_remote_code=True)."
                    ) from error
                self._tokenizer = tokenizer
            return tokenizer

    def check(self, folder: Path) -> None:
        """Raise `GeneratorNotFoundError` if the chat template opens a thought that it does not close, thinking off.

        The model would think until its limit, and write no supplement. The tokenizer is loaded only where a template
        speaks of thoughts.
        """
        files = [folder / name for name in _TEMPLATE_FILES]
        if not any("<think" in file.read_text(encoding="utf-8", errors="replace") for file in files if file.is_file()):
            return
        if _OPEN_THOUGHT.search(render_chat(self.tokenizer(folder), [{"role": "user", "content": "Hello."}])):
            raise GeneratorNotFoundError(
                f"Expected a model that can be told not to think, got {str(folder)!r}, whose chat template begins each "
                "reply with <think>, also with enable_thinking=False. Use a model that can be told not to, as Qwen3 "
                "can, or change its chat_template.jinja so that the thought is closed where enable_thinking is False: "
                "<think>\\n\\n</think>\\n\\n."
            )

    def encode(self, folder: Path, messages: Messages, opening: str = "") -> tuple[int, ...]:
        """Messages as token ids, then those of an opening, which are encoded apart as a training row's reply is."""
        tokenizer = self.tokenizer(folder)
        text = render_chat(tokenizer, messages)
        with self._encoding:
            ids = tokenizer([text, opening] if opening else [text], add_special_tokens=False)["input_ids"]
            return tuple(token for each in ids for token in each)

    def tokens(self, folder: Path, text: str) -> tuple[int, ...]:
        """The tokens of a reply, as a training row's reply is encoded."""
        tokenizer = self.tokenizer(folder)
        with self._encoding:
            return tuple(tokenizer([text], add_special_tokens=False)["input_ids"][0])


def _applied(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> str:
    template = tokenizer.get_chat_template()
    text = tokenizer.apply_chat_template(
        [dict(message) for message in messages],
        chat_template=f"{_ONE_DAY}{template}" if "strftime_now" in template else template,
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=False,
    )
    return str(text)
