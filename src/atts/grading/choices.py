"""Finds which choice of a multiple-choice question an answer names."""

import re
import unicodedata
from collections.abc import Callable, Sequence

from atts.grading.equivalence import equivalent, same_value
from atts.types import LETTERS

_FONT = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt)?|math(?:bf|rm|sf|it|tt)|boldsymbol|bm|mbox|bf|rm)(?![A-Za-z])"
    r"|\\(?:left|right)(?![A-Za-z])|\\[,;:! ()\[\]]|[$*_`{}~]"
)
# "C", "(C)", "C.", "[c] blue", "C - blue", "Option C: blue".
_LABEL = re.compile(
    r"(?:(?i:the\s+)?(?i:options?|choices?|answers?|alternative)\s*(?i:is\b)?\s*:?\s*)?"
    r"(?:[(\[]\s*(?P<round>[A-Za-z])\s*[)\]]|(?P<bare>[A-Za-z])(?![A-Za-z]))(?P<rest>.*)",
    re.DOTALL,
)
_SEVERAL = re.compile(r"\s*(?:[,;/&]|and\b|or\b)\s*[(\[]?[A-Za-z](?![A-Za-z])", re.IGNORECASE)

# Cyrillic letters that look like Latin ones; who writes Russian types them.
_CYRILLIC = str.maketrans(
    "\N{CYRILLIC CAPITAL LETTER A}\N{CYRILLIC CAPITAL LETTER VE}"
    "\N{CYRILLIC CAPITAL LETTER ES}\N{CYRILLIC CAPITAL LETTER IE}",
    "ABCE",
)
# Capitals only, and never the article ("the answer is A good one"), the pronoun, the name of a
# quantity, or one of several.
_NOT_AFTER = (
    r"(?![A-Za-z0-9\u00c0-\u024f\u0400-\u04ff]|['\N{RIGHT SINGLE QUOTATION MARK}]|\s*[=^+<>]|_[{\w]"
    r"|[)\]]?\s*(?:[,/&]|or\b|and\b)\s*[(\[]?[A-Z](?![A-Za-z]))"
)
_CAPITAL = rf"(?:[B-HJ-Z]|[AI](?!\s+(?!because|since|as\b)[a-z])){_NOT_AFTER}"
_FOREIGN = rf"[\u0410\u0412\u0421\u0415](?!\s+[^\W\dA-Z_]){_NOT_AFTER}"
# A small letter must stand by itself.
_SMALL = r"(?:[a-z](?=[)\]*}.$\s]{0,8}(?:\n|$))|(?<=\()[a-z](?=\)))"
_WRAPPED = (
    r"\W{0,8}(?:(?i:text|textbf|mathrm|mathbf|boxed)\{\W{0,3}){0,3}"
    rf"(?P<letter>{_CAPITAL}|{_FOREIGN}|{_SMALL})"
)
_ANSWER = (
    r"(?i:\b(?:answer|ans|solution)|\b(?:correct|right|best|final)\s+(?:option|choice|one|letter)"
    r"|\b(?:respuesta|opción|réponse|antwort|risposta|resposta|ответ|відповідь|odpowiedź|odpověď"
    r"|svar|antwoord|cevap|jawaban|đáp\s+án|απάντηση)"
    r"|答案|正确选项|正確選項|答え|正解|解答|回答|정답|답|الإجابة|الجواب|תשובה|उत्तर|উত্তর|คำตอบ)"
    r"(?i:\s+(?:correcta|correcte|corretta|correta|finale?|choice|option|letter|key))?"
)
_IS = (
    r"(?:\W{0,4}(?:(?i:\b(?:is|es|est|ist|lautet|è|é|is\s+(?:therefore|thus|clearly|then)|"
    r"would\s+be|must\s+be|should\s+be)\b)|[:=]|是|为|為|は|은|는|هي|है|কি|คือ)"
    r"|\s+[-\N{EN DASH}\N{EM DASH}](?=\s))"
)
_STATED = re.compile(
    rf"{_ANSWER}{_IS}(?:\W{{0,3}}(?i:the\s|options?\s|choice\s|letter\s|opción\s|选项|選項))*{_WRAPPED}"
    r"|(?i:\b(?:option|choice|answer))\W{1,4}(?P<named>[A-Z])\W{1,4}"
    r"(?i:is\s+(?:(?:the|therefore|thus)\s+)?(?:correct|right|answer|best))"
    r"|(?i:\bI\s+(?:choose|pick|select|would\s+choose|go\s+with|(?:wi|')ll\s+go\s+with))\s+"
    rf"(?i:(?:option|choice|answer)\s+)?\(?(?P<chosen>{_CAPITAL})"
    r"|(?:故选|应选|所以选|因此选|故選|應選)\W{0,3}(?P<picked>[A-Z])"
)
_STATED_TEXT = re.compile(rf"{_ANSWER}{_IS}[ \t*_$:\"]{{0,8}}(?P<text>[^\n]{{1,200}})")
# "I do not think the answer is B", "if the answer is B".
_TAKEN_BACK = re.compile(
    r"(?i)(?:\bnot|n't|\bnever|\bif|\bsuppose|\bassum(?:e|ing)|\bwhether|\bunless)"
    r"(?:\s+(?:think|believe|say|that|the|correct|final)){0,4}\s*$"
)
_ALONE = re.compile(
    r"[\s*_$`\"'(\[{\\]*(?:(?:text|textbf|mathrm|mathbf)\{\W{0,2})?"
    r"(?:(?i:option|choice)\s+)?\(?(?P<letter>[A-Za-z])[\s*_$`\"')\]}\\.,:]*"
)
_LONGEST_ALONE = 200


def choice_letter(answer: str, choices: Sequence[str]) -> str | None:
    r"""The letter of the choice that an answer names, repeats, or is the value of.

    >>> choice_letter(r"\text{(B) two}", ("one", "two")), choice_letter("C", ("one", "two"))
    ('B', None)
    >>> choice_letter(r"32^\circ", ("0 degrees", "32 degrees"))
    'B'
    """
    text = " ".join(_FONT.sub(" ", answer).split()).strip(" .,;")
    known = LETTERS[: len(choices)]
    if len(text) == 1 and text in known:
        return text
    for is_same in (equivalent, _same_words):
        if len(found := _which(choices, answer, is_same)) == 1:
            return found[0]
    if letter := _labelled(text, choices):
        return letter
    found = _which(choices, answer, same_value)
    return found[0] if len(found) == 1 else None


def stated_letter(text: str, choices: Sequence[str], after_thought: bool = False) -> str | None:
    """The letter that the last plain statement of a text gives, if a choice has it.

    Args:
        text: outside of any thought.
        choices: of the question.
        after_thought: whether a thought has come before: then a letter alone is a statement.

    >>> stated_letter("The correct option is (B).", ("one", "two"))
    'B'
    >>> stated_letter("I cannot tell. A or B?", ("one", "two"), after_thought=True) is None
    True
    """
    known = LETTERS[: len(choices)]
    # Full-width letters and colons.
    text = text if text.isascii() else unicodedata.normalize("NFKC", text)
    stated = None
    for match in _STATED.finditer(text):
        letter = match["letter"] or match["named"] or match["chosen"] or match["picked"]
        if letter.islower() and not (
            after_thought or match[0][0].isupper() or text[match.end("letter") :].startswith(")")
        ):
            continue
        if not _TAKEN_BACK.search(text[max(0, match.start() - 40) : match.start()]):
            stated = letter.translate(_CYRILLIC).upper()
    if stated:
        return stated if stated in known else None
    if after_thought and (letter := _alone(text, choices)):
        return letter
    said = list(_STATED_TEXT.finditer(text))
    if not said:
        return None
    same = _which(choices, said[-1]["text"].strip(' \t.*_$"'), _same_words)
    return same[0] if len(same) == 1 else None


def _which(choices: Sequence[str], answer: str, is_same: Callable[[str, str], bool]) -> list[str]:
    return [
        letter for letter, choice in zip(LETTERS, choices, strict=False) if is_same(choice, answer)
    ]


def _same_words(choice: str, answer: str) -> bool:
    one, other = (
        " ".join(_FONT.sub(" ", text).split()).strip(" .,;:") for text in (choice, answer)
    )
    return bool(one) and one.casefold() == other.casefold()


def _labelled(text: str, choices: Sequence[str]) -> str | None:
    """The letter that a text begins with, as a label."""
    match = _LABEL.fullmatch(text)
    if not match:
        return None
    found, rest = match["round"] or match["bare"], match["rest"]
    letter = found.upper()
    if letter not in LETTERS[: len(choices)] or _SEVERAL.match(rest):
        return None
    said = rest.strip(" .):-,\N{EN DASH}\N{EM DASH}")
    if not said or _same_words(choices[LETTERS.index(letter)], said):
        return letter
    if match["round"] or rest.startswith((".", ")", ":")):
        return letter
    # "C - blue", but neither "C - D" nor "c - 1".
    is_dash = re.match(r"\s[-\N{EN DASH}\N{EM DASH}]\s*[^\W\d_]{2}", rest)
    return letter if is_dash and found.isupper() else None


def _alone(text: str, choices: Sequence[str]) -> str | None:
    """The letter or the choice that is all of a text, or all of its last line."""
    text = text.strip()
    if not text:
        return None
    if len(text) <= _LONGEST_ALONE and "\n" not in text and (found := choice_letter(text, choices)):
        return found
    match = _ALONE.fullmatch(text.splitlines()[-1][:_LONGEST_ALONE])
    letter = match["letter"].upper() if match else ""
    return letter if letter and letter in LETTERS[: len(choices)] else None
