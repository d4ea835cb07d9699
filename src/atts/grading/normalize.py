# ruff: noqa: RUF001, RUF002 - characters that look like others are what this is about
r"""Brings the text of an answer to one form: without markup, fonts and colours, and with LaTeX in
place of Unicode mathematics. Nothing here changes what an answer means.
"""

import re
import unicodedata

_SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱˣ"
_SUPER = str.maketrans(_SUPERSCRIPTS, "0123456789+-()nix")
_SUBSCRIPTS = "₀₁₂₃₄₅₆₇₈₉₊₋₍₎ₙₓ"
_SUB = str.maketrans(_SUBSCRIPTS, "0123456789+-()nx")
_SUPER_RUN = re.compile(f"[{_SUPERSCRIPTS}]+")
_SUB_RUN = re.compile(f"[{_SUBSCRIPTS}]+")
_ROOT = re.compile(r"([√∛∜])\s*(\{[^{}]*\}|\([^()]*\)|[0-9]+(?:\.[0-9]+)?|[A-Za-z]|(?=.))")
_ROOTS = {"√": "\\sqrt", "∛": "\\sqrt[3]", "∜": "\\sqrt[4]"}
_SIGNS = {
    "−": "-",
    "﹣": "-",
    "－": "-",
    "⁄": "/",
    "∕": "/",
    "×": "\\times ",
    "✕": "\\times ",
    "·": "\\cdot ",
    "⋅": "\\cdot ",
    "∙": "\\cdot ",
    "•": "\\cdot ",
    "∗": "*",
    "÷": "/",
    "π": "\\pi ",
    "𝜋": "\\pi ",
    "∞": "\\infty ",
    "≤": "\\le ",
    "≦": "\\le ",
    "⩽": "\\le ",
    "≥": "\\ge ",
    "≧": "\\ge ",
    "⩾": "\\ge ",
    "≠": "\\ne ",
    "≈": "\\approx ",
    "±": "\\pm ",
    "∓": "\\mp ",
    "∪": "\\cup ",
    "∩": "\\cap ",
    "∈": "\\in ",
    "∉": "\\notin ",
    "∅": "\\emptyset ",
    "∖": "\\setminus ",
    "ℝ": "\\mathbb{R}",
    "ℤ": "\\mathbb{Z}",
    "ℕ": "\\mathbb{N}",
    "ℚ": "\\mathbb{Q}",
    "ℂ": "\\mathbb{C}",
    "°": "^\\circ ",
    "º": "^\\circ ",
    "˚": "^\\circ ",
    "′": "'",
    "’": "'",
    "‘": "'",
    "“": '"',
    "”": '"',
    "θ": "\\theta ",
    "α": "\\alpha ",
    "β": "\\beta ",
    "γ": "\\gamma ",
    "λ": "\\lambda ",
    "μ": "\\mu ",
    "ω": "\\omega ",
    "φ": "\\phi ",
    "→": "\\to ",
    "⟨": "\\langle ",
    "⟩": "\\rangle ",
    "∠": "\\angle ",
    "△": "\\triangle ",
    "…": "\\ldots ",
    "。": ".",
    "、": ",",
    "\N{ZERO WIDTH SPACE}": "",
    "\N{WORD JOINER}": "",
    "\N{ZERO WIDTH NO-BREAK SPACE}": "",
    "\N{INVISIBLE TIMES}": "",
}
_SIGN = str.maketrans(_SIGNS)
_DASH = re.compile(r"(?<![0-9])\s*[‐‑‒–—]\s*|\s+[‐‑‒–—]\s+")

_SPACING = re.compile(
    r"(?<!\\)\\[,!](?![A-Za-z])|\\(?:display|text|script)style(?![A-Za-z])"
    r"|\\(?:big|Big|bigg|Bigg)[lr]?(?![A-Za-z])|\\(?:large|Large|LARGE|huge|normalsize|small)(?![A-Za-z])"
    r"|\\(?:bf|it|rm|sf|tt|bfseries|itshape)(?![A-Za-z])|\\color\s*\{[^{}]*\}|\\color\s+[a-z]+(?![A-Za-z])"
    r"|\\(?:hspace|vspace|label|tag)\*?\s*\{[^{}]*\}|\\(?:left|right)(?![A-Za-z])|\\limits(?![A-Za-z])"
)
_SPACE = re.compile(
    r"(?<!\\)\\[;: >]|\\q?quad(?![A-Za-z])|\\(?:thin|med|thick|en)space(?![A-Za-z])|~"
)
_COMMANDS = (
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\(?:leq|leqslant)(?![A-Za-z])"), r"\\le"),
    (re.compile(r"\\(?:geq|geqslant)(?![A-Za-z])"), r"\\ge"),
    (re.compile(r"\\neq(?![A-Za-z])"), r"\\ne"),
    (re.compile(r"\\varnothing(?![A-Za-z])"), r"\\emptyset"),
    (re.compile(r"\\lbrace(?![A-Za-z])"), r"\\{"),
    (re.compile(r"\\rbrace(?![A-Za-z])"), r"\\}"),
    (re.compile(r"\\lbrack(?![A-Za-z])"), "["),
    (re.compile(r"\\rbrack(?![A-Za-z])"), "]"),
    (re.compile(r"\\degree(?:s)?(?![A-Za-z])"), r"^\\circ"),
    (re.compile(r"\^\{\s*\\circ\s*\}"), r"^\\circ"),
    (re.compile(r"\\(?:percent|%)"), r"\\%"),
)
# Fonts for formulas, whose letters stay what they are; fonts for text, which may hold words.
_FORMULA_FONT = (
    r"\\(?:mathbf|boldsymbol|bm|pmb|mathsf|mathit|mathtt|mathnormal|ensuremath|boxed|fbox|underline"
    r"|displaystyle|textcolor\s*(?:\[[^\[\]]*\]\s*)?\{[^{}]*\}|colorbox\s*\{[^{}]*\}"
    r"|fcolorbox\s*\{[^{}]*\}\s*\{[^{}]*\}|color\s*\{[^{}]*\})"
)
_TEXT_FONT = (
    r"\\(?:text(?:bf|it|sf|tt|rm|sc|sl|up|md|normal)?|emph|mbox|hbox|mathrm|operatorname|mathop)"
)
_FONT = re.compile(rf"(?:(?P<formula>{_FORMULA_FONT})|(?P<text>{_TEXT_FONT}))\s*\{{")
_WORD = re.compile(r"(?<!\\)(?<![A-Za-z\\])[A-Za-z]{2,}")
_ONE_LETTER = re.compile(r"(?<![A-Za-z\\])[A-Za-z](?![A-Za-z])")

_BOLD = re.compile(r"(?<![\w)*])(\*\*|__)(?=\S)([^*_\n]+?)\1(?![\w(*])")
_TAG = re.compile(
    r"</?(?:b|i|u|em|strong|span|font|code|mark|big|small|p|br)(?:\s[^<>]{0,80})?/?>", re.I
)
_AROUND = (
    *(("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")),
    *((mark, mark) for mark in ("***", "```", "**", "__", "*", "`", '"')),
)
_TRAILING = ".,;:"
# A displayed formula may stand on a line of its own.
_DISPLAYED = re.compile(r"\$\$\s*([^$]*?)\s*\$\$")
_DECIMAL_COMMA = re.compile(r"(?<=[0-9])\{,\}(?=[0-9])(?![0-9]{3}(?![0-9]))")


def normalize(text: str) -> str:
    r"""The text in its one form.

    >>> normalize("**½**"), normalize(r"\textcolor{red}{\boldsymbol{17}},"), normalize("x² – ５")
    ('\\frac{1}{2}', '17', 'x^{2}-5')
    """
    if not text.isascii():
        text = _from_unicode(text)
    if "<" in text:
        text = _TAG.sub("", text)
    text = _without_marks(text)
    if "$$" in text:
        text = _DISPLAYED.sub(r"\1", text)
    if "**" in text or "__" in text:
        text = _BOLD.sub(r"\2", text)
    if "\\" in text or "~" in text:
        text = text.replace(",\\! ", ",")
        text = _unwrapped(text)
        text = _SPACING.sub("", text)
        text = _SPACE.sub(" ", text)
        for pattern, command in _COMMANDS:
            text = pattern.sub(command, text)
    text = _DECIMAL_COMMA.sub(".", text).replace("{,}", ",")
    text = text.replace("\\$", "").replace("$", "")
    return _without_marks(text)


def _from_unicode(text: str) -> str:
    out = []
    for character in text:
        if "\N{FULLWIDTH EXCLAMATION MARK}" <= character <= "\N{FULLWIDTH TILDE}":
            character = unicodedata.normalize("NFKC", character)
        elif character in "ℝℤℕℚℂ":
            pass
        elif unicodedata.category(character) == "Zs":
            character = " "
        elif "𝐀" <= character <= "𝟿":  # letters and digits in fonts
            character = unicodedata.normalize("NFKC", character)
        elif character in "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅐⅛⅜⅝⅞⅑⅒":
            over, _, under = unicodedata.normalize("NFKC", character).partition("⁄")
            character = f"\\frac{{{over}}}{{{under}}}"
        out.append(character)
    text = "".join(out)
    text = _SUPER_RUN.sub(lambda run: f"^{{{run[0].translate(_SUPER)}}}", text)
    text = _SUB_RUN.sub(lambda run: f"_{{{run[0].translate(_SUB)}}}", text)
    text = _ROOT.sub(_root, text)
    # A dash is a minus, but between two numbers it may be a range.
    return _DASH.sub("-", text.translate(_SIGN))


def _root(match: re.Match[str]) -> str:
    inside = match[2]
    if inside.startswith(("{", "(")):
        inside = inside[1:-1]
    return f"{_ROOTS[match[1]]}{{{inside}}}" if inside else _ROOTS[match[1]]


def _without_marks(text: str) -> str:
    """Without what stands around all of it, and without punctuation at its end."""
    while True:
        before = text
        text = text.strip().rstrip(_TRAILING).lstrip("=:").strip()
        for left, right in _AROUND:
            inside = text[len(left) : len(text) - len(right)]
            if (
                len(text) > len(left) + len(right)
                and text.startswith(left)
                and text.endswith(right)
                and left not in inside
                and right not in inside
            ):
                text = inside
                break
        if text == before:
            return text


def _unwrapped(text: str) -> str:
    """Without fonts and colours, where what they hold is no word."""
    for _ in range(8):
        changed = False
        begin = 0
        while match := _FONT.search(text, begin):
            end = _closing(text, match.end())
            if end < 0:
                break
            inside = text[match.end() : end]
            if _is_formula(inside, match["formula"] is not None, match[0]):
                before = text[: match.start()]
                text = before + _kept_apart(before, inside) + text[end + 1 :]
                begin = match.start()
                changed = True
            else:
                begin = match.end()
        if not changed:
            break
    return text


def _kept_apart(before: str, inside: str) -> str:
    # \pi\mathbf{x} is no \pix.
    is_command = re.search(r"\\[A-Za-z]+$", before[-30:]) is not None
    return f" {inside}" if is_command and inside[:1].isalpha() else inside


def _is_formula(inside: str, formula_font: bool, command: str) -> bool:
    if _WORD.search(inside):
        return False
    if formula_font:
        return True
    if "mathrm" in command and inside.strip() in ("e", "i", "d"):
        return True
    return not _ONE_LETTER.search(inside) and bool(re.search(r"[0-9\\]", inside))


def _closing(text: str, begin: int) -> int:
    """Where the brace that was opened before a position is closed; -1 if it is not."""
    depth = 1
    position = begin
    while position < len(text):
        character = text[position]
        if character == "\\":
            position += 1
        elif character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
            if not depth:
                return position
        position += 1
    return -1
