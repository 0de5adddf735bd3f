"""Renders chat messages with the model's own chat template: the same text on every day, and in training."""

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
"""Messages with a `role` (`system`, `user`, `assistant`) and a `content`."""

_FIXED_DATE = (
    "{% macro strftime_now(form) %}{{ form | replace('%d', '26') | replace('%B', 'July') | replace('%b', 'Jul')"
    " | replace('%m', '07') | replace('%Y', '2024') | replace('%y', '24') }}{% endmacro %}"
)
"""A macro that is put before a template with today's date. The date is always the 26th of July 2024, the default of
Llama's own template, so that a prompt does not change overnight."""

_OPEN_THINKING = re.compile(r"<think(?:ing)?>\s*\Z", re.I)
_TEXT_ARCHITECTURE = re.compile(r"CausalLM|LMHead|ConditionalGeneration")
_TEMPLATE_FILES = ("chat_template.jinja", "tokenizer_config.json")


def render_chat(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> str:
    """Messages as the text that the model continues with its reply, without thinking.

    Training and inference both use this function, so that they see the same tokens. If the template refuses or omits
    the system role, the system text moves into the first user message, and successive messages of one role are joined.
    Raises `GeneratorNotFoundError` for a tokenizer without a chat template, or with one that refuses this too.
    """
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        raise GeneratorNotFoundError(
            f"Expected a model with a chat template, got {tokenizer.name_or_path!r} without one. "
            "Use an instruction-tuned model."
        )
    try:
        text = _apply_template(tokenizer, messages)
        if all(message["content"].strip() in text for message in messages if message["role"] == "system"):
            return text
    except TemplateError:
        pass
    try:
        return _apply_template(tokenizer, alternate_roles(messages))
    except TemplateError as error:
        raise GeneratorNotFoundError(
            f"Expected a chat template that takes the roles {[each['role'] for each in messages]}, got that of "
            f"{tokenizer.name_or_path!r}, which says: {error}. Use a model made for chat."
        ) from error


def check_text_model(folder: Path) -> None:
    """Raise `GeneratorNotFoundError` if transformers cannot read config.json, or the model does not write text.

    Reads no weights.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers raises any error for a malformed config.json
        first = str(error).strip().partition("\n")[0]
        raise GeneratorNotFoundError(
            f"Expected a config.json that transformers reads in {str(folder)!r}, got {type(error).__name__}: {first} "
            "Save the model again with save_pretrained(), or update transformers."
        ) from error
    kinds = [str(each) for each in config.architectures or ()]
    if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or (
        kinds and not any(map(_TEXT_ARCHITECTURE.search, kinds))
    ):
        raise GeneratorNotFoundError(
            f"Expected a model that writes text (...ForCausalLM) in {str(folder)!r}, got "
            f"{', '.join(kinds) or config.model_type!r}. Pass an instruction-tuned language model's folder."
        )


def check_chat_tokenizer(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise `GeneratorNotFoundError` for a tokenizer without tokens or without a chat template."""
    if not tokenizer.encode(render_chat(tokenizer, [{"role": "user", "content": "Hello."}])):
        raise GeneratorNotFoundError(
            f"Expected a tokenizer in {str(folder)!r}, got one without any tokens. Save it there with "
            "tokenizer.save_pretrained()."
        )


def alternate_roles(messages: Messages) -> list[dict[str, str]]:
    """The same conversation with user and assistant messages in turn.

    System messages become user messages, and successive messages of one role become one message.

    >>> alternate_roles([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}])
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


class ChatTokenizer:
    """A model's tokenizer with its chat template, loaded at first use; engines of one base share it. Thread-safe.

    >>> ChatTokenizer(trust_remote_code=False).is_loaded
    False
    """

    def __init__(self, *, trust_remote_code: bool) -> None:
        self._trust = trust_remote_code
        self._load_lock, self._encode_lock = threading.Lock(), threading.Lock()
        self._tokenizer: PreTrainedTokenizerBase | None = None

    @property
    def is_loaded(self) -> bool:
        """Whether the tokenizer is in memory."""
        return self._tokenizer is not None

    def load(self, folder: Path) -> PreTrainedTokenizerBase:
        """The tokenizer in a model's folder, read once. Raises `GeneratorNotFoundError`."""
        with self._load_lock:
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

    def check_thinking_off(self, folder: Path) -> None:
        """Raise `GeneratorNotFoundError` if the chat template begins a thought although thinking is switched off.

        The model would think until its token limit, and write no supplement. The tokenizer is loaded only if a template
        mentions thinking.
        """
        files = [folder / name for name in _TEMPLATE_FILES]
        if not any("<think" in file.read_text(encoding="utf-8", errors="replace") for file in files if file.is_file()):
            return
        if _OPEN_THINKING.search(render_chat(self.load(folder), [{"role": "user", "content": "Hello."}])):
            raise GeneratorNotFoundError(
                f"Expected a model whose thinking can be switched off, got {str(folder)!r}, whose chat template begins "
                "each reply with <think>, also with enable_thinking=False. Use a model that can answer at once, as "
                "Qwen3 can, or change its chat_template.jinja so that the thought is closed if enable_thinking is "
                "False: <think>\\n\\n</think>\\n\\n."
            )

    def encode(self, folder: Path, messages: Messages, opening: str = "") -> tuple[int, ...]:
        """The token ids of messages, then those of an opening, encoded separately as in a training row."""
        tokenizer = self.load(folder)
        text = render_chat(tokenizer, messages)
        with self._encode_lock:
            ids = tokenizer([text, opening] if opening else [text], add_special_tokens=False)["input_ids"]
            return tuple(token for each in ids for token in each)

    def encode_reply(self, folder: Path, text: str) -> tuple[int, ...]:
        """The token ids of a reply, encoded as in a training row."""
        tokenizer = self.load(folder)
        with self._encode_lock:
            return tuple(tokenizer([text], add_special_tokens=False)["input_ids"][0])


def _apply_template(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> str:
    template = tokenizer.get_chat_template()
    text = tokenizer.apply_chat_template(
        [dict(message) for message in messages],
        chat_template=f"{_FIXED_DATE}{template}" if "strftime_now" in template else template,
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=False,
    )
    return str(text)
