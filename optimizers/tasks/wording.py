"""Simplifies a reply's wording: no markup, one form per character, answer cues of other languages in English.

Pure.
"""

from __future__ import annotations

import re
import unicodedata

_COMMAND = re.compile(r"\\(?:text|textbf|mathbf|mathrm|boxed)\s*\{([^{}]*)\}")
_MARKUP = re.compile(r"[*_`$]+|\\[()\[\]]|</?[a-z]+>")
_UNSPACED = r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_SEAM = re.compile(rf"(?<=[{_UNSPACED}])(?=[A-Za-z(])|(?<=[A-Za-z)])(?=[{_UNSPACED}])")
"""The border between a script without spaces and a Latin letter."""
_SIGNS = str.maketrans({"\u3002": ". ", "\u3001": ", ", "\u3010": " ", "\u3011": ": ", "\u2019": "'", "\u2018": "'"})

_L = r"([A-Za-z])\s*"
_NEXT = r"\s*(?=[A-Z]\b)"
_CHINESE = (
    (rf"{_L}(?:和|与|與|跟|及|以及){_NEXT}", r"\1 and "),
    (rf"{_L}(?:或者?|还是|還是){_NEXT}", r"\1 or "),
    (rf"{_L}(?:选?项)?[都均也是为]*(?:不正确|不正確|不对|不對|错误|錯誤|错|錯|不符合|不成立)的?", r"\1 is wrong"),
    (rf"{_L}(?:选?项)?[都均][是为]*(?:正确|正確|对|對)的?", r"\1 are correct"),
    (rf"{_L}(?:选?项)?[是为]*(?:正确|正確|对|對)的?(?!答案|选项)", r"\1 is correct"),
    (r"(?:可以)?(?:排除|不能选|不能選|不选|不選)", " rule out "),
    (r"(?:应该|應該|应|應)(?:是|为)|而是", " it is "),
    (r"不是|并非|並非", " not "),
    (
        r"(?:正[确確]|最[佳终終])?的?(?:答案|选项|選項|选择|選擇)\s*(?:应该|應該|应|應)?[是为為:选選]+\s*",
        " the answer is ",
    ),
    (r"[故应應]?(?:选择|選擇|选|選)(?!项|項)\s*:?\s*", " the answer is "),
    (r"因此|所以|综上所述|綜上所述|因而|故", " therefore "),
)
_JAPANESE = (
    (rf"{_L}(?:と|や|および|及び){_NEXT}", r"\1 and "),
    (rf"{_L}(?:か|または|あるいは){_NEXT}", r"\1 or "),
    (rf"{_L}(?:では(?:なく|ない|ありません)|[はが](?:間違い|誤り|不正解|正しくない))", r"\1 is wrong, "),
    (rf"{_L}(?:が|は|の方が)(?:正しい|正解|適切)", r"\1 is correct"),
    (rf"{_L}を(?:選び|選択|選ぶ)", r"\1 is the answer"),
    (r"(?:正解|正答|答え|答|解答|回答)の?(?:選択肢)?\s*[は:が]+\s*", " the answer is "),
    (r"したがって|よって|ゆえに", " therefore "),
)
_KOREAN = (
    (rf"{_L}(?:와|과|하고){_NEXT}", r"\1 and "),
    (rf"{_L}[가이]?\s*아니[라고다며]", r"\1 is wrong, "),
    (rf"{_L}[를을]\s*(?:선택|고르)", r"\1 is the answer"),
    (r"(?:정답|답안|답)[은이:]*\s*(?=[A-Z(])", " the answer is "),
    (r"따라서|그러므로", " therefore "),
)
_NOUN = (
    r"\b(?:respuesta|opci[oó]n|alternativa|r[ée]ponse|antwort|lösung|risposta|opzione|resposta|opção|ответ)"
    r"(?:\s+(?:final|correcta|correcte|bonne|juste|finale|corretta|giusta|correta|certa|richtige))?"
)
_IS = r"\s*(?:(?:es|est|ist|lautet|è|é|será)\b|[:=\u2013\u2014-])+\s*"
_ARTICLE = r"(?:(?:la|le|el|a|o|die|der|das)\s+)?(?:(?:lettre|letra|lettera|opción|option|opzione|opção)\s+)?"
_SO = r"\b(?:donc|por lo tanto|por tanto|por eso|also|daher|deshalb|quindi|portanto|поэтому|значит)"
_EUROPEAN = (
    (rf"(?i:{_NOUN}{_IS}){_ARTICLE}", "the answer is "),
    (rf"(?i:{_SO})(?=,?\s+[A-Z]\b)", "therefore "),
)


_ASCII_PATTERNS = [(re.compile(pattern), english) for pattern, english in _EUROPEAN]
_ASIAN_PATTERNS = [(re.compile(pattern), english) for pattern, english in (*_CHINESE, *_JAPANESE, *_KOREAN)]
_ALL_PATTERNS = [*_ASIAN_PATTERNS, *_ASCII_PATTERNS]
"""Patterns of other languages and their English replacements, in the order of replacement."""


def simplify_wording(text: str) -> str:
    """Return the text without markup, in plain letters and single spaces, with English cues; lines stay.

    >>> simplify_wording("**故选Ｃ**"), simplify_wording("La respuesta correcta es la B.")
    ('the answer is C', 'La the answer is B.')
    """
    text = unicodedata.normalize("NFKC", text).translate(_SIGNS)
    for _ in range(3):
        text = _COMMAND.sub(r"\1", text)
    text = translate_cues(_MARKUP.sub("", text))
    lines = (" ".join(line.split()) for line in text.splitlines())
    return "\n".join(line for line in lines if line)


def translate_cues(text: str) -> str:
    """Translate phrases that introduce an answer in other languages into English; the rest stays."""
    text = _SEAM.sub(" ", text)
    for pattern, english in _ASCII_PATTERNS if text.isascii() else _ALL_PATTERNS:
        text = pattern.sub(english, text)
    return text


def fold(text: str) -> str:
    """Return a text in the form used for comparison."""
    return " ".join(simplify_wording(text).casefold().split()).strip(" .,;:!\"'")
