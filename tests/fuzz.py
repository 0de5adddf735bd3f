"""Hostile bytes for whatever reads other people's: replies, saved states, a run's files, a store of rollouts.

    python tests/fuzz.py --inputs 1000000 --seed 0                       every target, valid inputs mutated
    python tests/fuzz.py --inputs 100000 --engine atheris --target reply     led by coverage

An input is refused with an error of ours, or taken. Anything else is a finding, and so is one that takes longer than
five seconds: it is printed, and the script fails. The last line is JSON.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import random
import resource
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECONDS = 5.0
"""How long one input may take."""

SHARES = {
    "reply": 0.45,
    "redact": 0.25,
    "state": 0.18,
    "letters": 0.02,
    "run": 0.09,
    "statefile": 0.0092,
    "store": 0.0008,
}
"""How a number of inputs is dealt out to the targets: most to the fastest (a damaged store is recovered row by row)."""

BROKEN = (RecursionError, MemoryError, SystemExit)
"""What DSPy's own loading may not end in either."""

WORDS = [
    *(b"", b"\0", b"\n" * 50, b"[", b"[[ ## answer ## ]]", b"[none]", b"<|im_start|>", b"</question>", b"\r\nsystem:"),
    *(b"\xff", b"\xf0\x9f\x98\x80", b"\xed\xa0\x80", b"\\ud800", b"-1", b"1e999", b"NaN", b"true", b"null", b"9" * 400),
    *(b"{}", b'{"a":' * 80, b"../", b"/etc/passwd", b"./", b"sk-0123456789", b"Bearer abcdefgh", b"://a:b@c/"),
    b"SQLite format 3\0",
]
"""What a mutation puts in."""

VALUES: Sequence[object] = [
    *(None, True, -1, 0, 1, 2**31, 2**53 + 1, 10**400, 0.5, -1e308, 1e308, float("nan"), float("inf")),
    *("", "\0", "a", "\ud800", "./x", "../x", "/etc/passwd", "sgt:generator", "sgt:../x", "~root", "a/b", "x" * 5000),
    *([], [[]], {}, {"a": {}}, [None] * 50, "{supplement}", "http://h:p@[bad", {"seen": {}}, b"bytes"),
]
"""What is put into a state."""


@dataclass(frozen=True)
class Target:
    """What reads the bytes, valid ones to start from, and the errors that it may raise."""

    seeds: Sequence[bytes]
    read: Callable[[bytes], object]
    refusals: tuple[type[BaseException], ...]
    never: tuple[type[BaseException], ...] = ()


def mutated(seeds: Sequence[bytes], rng: random.Random) -> bytes:
    """A valid input with a few bytes changed, cut, doubled, put in, or joined with another's."""
    content = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        at, end = sorted((rng.randint(0, len(content)), rng.randint(0, len(content))))
        match rng.randrange(6):
            case 0 if content:
                content[at % len(content)] ^= 1 << rng.randrange(8)
            case 1:
                del content[at : min(end, at + 64)]
            case 2:
                content[at:at] = content[at : min(end, at + 256)]
            case 3:
                content[at:at] = rng.choice(WORDS)
            case 4:
                content[at:] = rng.choice(seeds)[at:]
            case _:
                content[at:end] = rng.randbytes(min(end - at, 16))
    return bytes(content)


def spoilt(state: Any, choices: bytes) -> Any:
    """A state with some of its values replaced, left out or added, as the bytes say."""
    state, given = copy.deepcopy(state), iter(choices)
    for _ in range(next(given, 0) % 4):
        place = state
        while isinstance(place, dict) and place and next(given, 0) % 3:
            inner = place[sorted(place, key=str)[next(given, 0) % len(place)]]
            if not isinstance(inner, dict) or not inner:
                break
            place = inner
        if not isinstance(place, dict) or not place:
            continue
        name = sorted(place, key=str)[next(given, 0) % len(place)]
        match next(given, 0) % 8:
            case 0:
                del place[name]
            case 1:
                place[str(VALUES[next(given, 0) % len(VALUES)])[:20]] = VALUES[next(given, 0) % len(VALUES)]
            case _:
                place[name] = VALUES[next(given, 0) % len(VALUES)]
    return state


def reply_target(room: Path) -> Target:
    """A generator's reply, made a supplement and shown to the actor."""
    from sgt_modules.kinds import parse
    from sgt_modules.prompts import ADVICE
    from sgt_modules.safety import harmless

    def read(content: bytes) -> object:
        supplement = parse(content.decode("utf-8", "surrogateescape"))
        assert supplement.text == supplement.text.strip()
        assert parse(supplement.reply()).kind or not supplement
        shown = harmless(supplement.render(), ["question", "answer"])
        assert not any(marker in shown for marker in ("[[ ##", "<|im_start|>", "</question>"))
        return ADVICE.shown(shown)

    seeds = [
        "[cot] Think of 2+2.",
        "[One-Shot] Q: 2+2? A: 4",
        "[none]",
        "Mind the units.",
        "[free] system: <|im_start|>",
    ]
    return Target([each.encode() for each in seeds], read, ())


def letters_target(room: Path) -> Target:
    """An actor's answer to a question with lettered options."""
    from optimizers.tasks.letters import read_letters

    options = {"A": "A beta blocker", "B": "Vitamin C", "C": "\u7ef4\u751f\u7d20", "D": "34", "I": "none of these"}

    def read(content: bytes) -> object:
        letters = read_letters(content.decode("utf-8", "surrogateescape"), options)
        assert len(set(letters)) == len(letters)
        assert set(letters) <= set(options)
        return letters

    seeds = [
        "A. is wrong.\nB. is right.\nTherefore, (B)",
        "{'reasoning': 'Not A.', 'answer': 'C'}",
        "\u6545\u9009C\u3002A\u548cB\u90fd\u9519\u8bef",
        "Between A and D, Dr. C. Smith and I choose vitamin C. Wait, the answer is \\boxed{\\text{D}}.",
        "[[ ## answer ## ]]\n<answer>I</answer>",
    ]
    return Target([each.encode() for each in seeds], read, ())


def redact_target(room: Path) -> Target:
    """A provider's error, kept without keys."""
    import dspy

    from sgt_modules.saving.redaction import redact

    key = "sk-abcdefgh12345678"
    lm = dspy.LM("openai/m", api_key=key, api_base="https://me:word@host.example:8000/v1")

    def read(content: bytes) -> object:
        left = redact(content.decode("utf-8", "surrogateescape"), [lm])
        assert key not in left
        assert "host.example:8000" not in left
        return left

    seeds = [
        f"Incorrect API key provided: {key}.",
        "https://me:word@host.example:8000/v1/chat failed",
        "Bearer abc.def-12",
    ]
    return Target([each.encode() for each in seeds], read, ())


def wrapped() -> Any:
    """A supplemented predictor with everything that a state holds."""
    import dspy

    from sgt_modules import supplement
    from sgt_modules.gate import Gate
    from sgt_modules.predictor import SupplementedPredictor

    program = supplement(dspy.Predict("question -> answer"), generator="some/model")
    assert isinstance(program, SupplementedPredictor)
    program.gate = Gate.of(["how many red cars", "how many boats"], most_novel=0.5, least_sure=-2.0)
    return program


def own_state() -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The generator's states of a model on this machine and behind an endpoint."""
    import dspy

    from sgt_modules import Endpoint, SupplementGenerator
    from sgt_modules.generator_prompt import NOTE

    local = {"model": "some/model", "revision": None, "adapter": None, "sha256": "0" * 64, "adapter_sha256": None}
    behind = SupplementGenerator(Endpoint(dspy.LM("openai/m", temperature=0.2)))
    own = {"temperature": 0.0, "max_new_tokens": 512, "prompt": NOTE.dump_state(), "max_prompt_tokens": None}
    return {**local, "dtype": "auto", **own}, behind.dump_state()


def state_target(room: Path) -> Target:
    """The parts of a saved program's state that are ours."""
    from sgt_modules import SupplementGenerator
    from sgt_modules.errors import SGTError
    from sgt_modules.gate import Gate
    from sgt_modules.prompts import Template

    program, generators = wrapped(), own_state()
    signature = program.signature
    plain = super(type(program), program).dump_state()
    ours = {"template": {"description": "A hint.", "text": "{supplement}"}, "gate": program.gate.dump_state()}

    def read(content: bytes) -> object:
        generator = generators[content[0] % 2] if content else generators[0]
        state = spoilt({**ours, "generator": generator}, content[1:])
        if content[-1:] == b"\0":  # DSPy's own part takes a hundred times as long
            program.signature = signature
            return program.load_state({**plain, **state})
        gate, template = Gate.load_state(state.get("gate")), Template.of_state(state.get("template"))
        assert 0.0 <= gate.novelty("how many new goats") <= 1.0
        return template.shown("x"), SupplementGenerator.from_state(state.get("generator")).name

    seeds = [bytes([kind, *range(start, start + 24)]) for kind in (0, 1) for start in range(0, 200, 7)]
    return Target(seeds, read, (SGTError,))


def statefile_target(room: Path) -> Target:
    """A whole saved program's file, which DSPy reads and hands on to us."""
    program, file = wrapped(), room / "program.json"
    program.generator.dump_state = lambda json_mode=True: own_state()[0]
    state, signature = {**program.dump_state(), "metadata": {"dependency_versions": {}}}, program.signature

    def read(content: bytes) -> object:
        file.write_bytes(content)
        program.signature = signature
        return program.load(file)

    return Target([json.dumps(state).encode()], read, (Exception,), never=BROKEN)


def run_target(room: Path) -> Target:
    """The JSON files of a run's folder."""
    from optimizers.core.safe_reading import read_entry, read_object
    from optimizers.core.usage import RunUsage
    from sgt_modules.errors import RunFolderError

    file = room / "run.json"

    def read(content: bytes) -> object:
        file.write_bytes(content)
        found = read_object(file, home=room) or {}
        return read_entry(found, "settings", dict, {}, file=file), RunUsage.read(found)

    run = {
        "settings": {"seed": 0, "recipe": {"rounds": 2, "margin": None}},
        "versions": {"dspy": "3.4.1"},
        "created": "2026",
    }
    spent = {"actor_calls": 3, "actor_in": 100, "sampling": 1.5}
    return Target([json.dumps(each).encode() for each in (run, spent, {**run, **spent})], read, (RunFolderError,))


def store_target(room: Path) -> Target:
    """A file that stands where a run's rollouts should be."""
    from optimizers.core.records import Query, Reward, Rollout
    from optimizers.store.rollout_store import RolloutStore
    from sgt_modules.errors import SGTError
    from sgt_modules.kinds import Supplement

    def write(file: Path) -> bytes:
        with RolloutStore(file) as store:
            for n in range(6):
                query = Query(f"q{n}", n, "self", f"Help with {n}.")
                rollout = Rollout(
                    query, "sft", "free", Supplement("cot", f"Think {n}."), Reward(n / 6), {"answer": "4"}
                )
                store.add(rollout, scope="s")
        whole = sqlite3.connect(file)  # everything in one file, as after a clean end
        whole.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        whole.close()
        return file.read_bytes()

    seed = write(room / "seed.sqlite")

    def read(content: bytes) -> object:
        for left in room.glob("rollouts.sqlite*"):
            left.unlink() if left.is_file() else shutil.rmtree(left)
        (room / "rollouts.sqlite").write_bytes(content)
        with RolloutStore(room / "rollouts.sqlite") as store:
            return store.rollouts()

    return Target([seed], read, (SGTError,))


TARGETS: Mapping[str, Callable[[Path], Target]] = {
    "reply": reply_target,
    "letters": letters_target,
    "redact": redact_target,
    "state": state_target,
    "run": run_target,
    "statefile": statefile_target,
    "store": store_target,
}


class TooSlowError(BaseException):
    """An input that takes longer than it may."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Inside, `TooSlowError` is raised when the time is up."""

    def stop(number: int, frame: object) -> None:
        raise TooSlowError(f"longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def tried(target: Target, content: bytes) -> bool:
    """Whether an input is taken; False where it is refused as it should be. Raises whatever else it leads to."""
    try:
        target.read(content)
    except target.refusals as refusal:
        if isinstance(refusal, target.never):
            raise
        return False
    return True


def fuzzed(name: str, inputs: int, seed: int, room: Path) -> dict[str, object]:
    """Try so many mutated inputs on a target, and say how they went."""
    target, rng = TARGETS[name](room), random.Random(f"{seed}-{name}")
    began, taken, findings, slowest = time.perf_counter(), 0, [], 0.0
    for _ in range(inputs):
        content, before = mutated(target.seeds, rng), time.perf_counter()
        try:
            with limited(SECONDS):
                taken += tried(target, content)
        except (AssertionError, TooSlowError, Exception, SystemExit) as problem:  # noqa: BLE001 - that is what is looked for
            findings.append((f"{type(problem).__name__}: {problem}"[:200], content))
        slowest = max(slowest, time.perf_counter() - before)
    seconds = round(time.perf_counter() - began, 1)
    print(f"{name}: {inputs} inputs in {seconds} s, {taken} taken, slowest {1000 * slowest:.0f} ms", flush=True)
    for said, content in dict(findings).items():
        print(f"  {said}\n    {content[:300]!r}", flush=True)
    return {"target": name, "inputs": inputs, "seconds": seconds, "taken": taken, "findings": len(findings)}


def led_by_coverage(name: str, inputs: int, seed: int, room: Path) -> dict[str, object]:
    """Try so many inputs that atheris makes from what they reach: in a child, as it ends its process at a finding."""
    began, child = time.perf_counter(), os.fork()
    if not child:
        import atheris

        with atheris.instrument_imports(include=["sgt_modules", "optimizers"]):
            target = TARGETS[name](room)
        corpus = room / "corpus" / name
        corpus.mkdir(parents=True)
        for number, content in enumerate(target.seeds):
            (corpus / str(number)).write_bytes(content)
        limits = [f"-runs={inputs}", f"-seed={seed + 1}", f"-timeout={SECONDS:.0f}", "-max_len=65536"]
        arguments = [*limits, f"-artifact_prefix={Path.cwd()}/", "-verbosity=0", str(corpus)]
        atheris.Setup([sys.argv[0], *arguments], lambda content: tried(target, content) and None)
        atheris.Fuzz()
    _, status = os.waitpid(child, 0)
    seconds = round(time.perf_counter() - began, 1)
    print(f"{name}: {inputs} inputs in {seconds} s, led by coverage", flush=True)
    return {"target": name, "inputs": inputs, "seconds": seconds, "findings": int(status != 0)}


def main() -> None:
    """Fuzz what the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", choices=sorted(TARGETS), action="append")
    parser.add_argument("--engine", choices=["mutation", "atheris"], default="mutation")
    asked = parser.parse_args()
    names = asked.target or list(TARGETS)
    shares = {name: SHARES[name] / sum(SHARES[each] for each in names) for name in names}
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    memory = Path("/dev/shm")  # a disk would take longer than the reading
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        room = Path(folder)
        fuzz = led_by_coverage if asked.engine == "atheris" else fuzzed
        found = [fuzz(name, round(asked.inputs * shares[name]), asked.seed, room) for name in names]
    total = sum(round(asked.inputs * shares[name]) for name in names)
    print(
        json.dumps({"inputs": total, "findings": sum(int(str(each["findings"])) for each in found), "targets": found})
    )
    if any(each["findings"] for each in found):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
