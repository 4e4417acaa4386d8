"""The second analyzer: pairs of units, where a unit is a Hangul, Kana or Han character, a number, or a Latin word.

``제3조`` has the units 제, 3 and 조 and the tokens 3, 제3 and 3조: a pair tells articles, dates and amounts apart, as
numbers alone do not. As in the first analyzer, pairs of characters find a noun regardless of the particle after it.
More tokens are added for what people write in two ways:

    물은, 물에서        also 물: a character before a particle is a word
    한 달, 5만 원       also 한달, 만원: a pair over a blank beside a word of one character, or beside a number
    水を飲む            also each Han character, because Chinese and Japanese have no blanks
    ABC-1234            abc, 1234 and abc1234, as in ABC1234 and ABC 1234
    getUserName         get, user, name, getuser, username and getusername, as in get_user_name
    010-1234-5678       also 01012345678
    C++, C#, 3.5        the signs are written as letters, because Milvus's tokenizer drops signs

Latin letters lose case, accents and the endings of English inflection. Invisible characters are ignored.

Each step is a regular expression over the whole text: a loop over the words of a Korean text takes twice as long.
"""

import re
import unicodedata
from typing import Final

from app.core.analyzers.english import stem

PLUS: Final = "\u1429"
SHARP: Final = "\u2d4c"
POINT: Final = "\ua4f8"
"""Letters that look like +, # and a decimal point."""

_HANGUL_KANA: Final = (
    "\u1100-\u11ff\ua960-\ua97c\uac00-\ud7a3\ud7b0-\ud7c6\ud7cb-\ud7fb"  # Hangul
    "\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff"  # Kana
)
_HAN: Final = (  # Assigned characters only.
    "\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufa6d\ufa70-\ufad9"
    "\U00020000-\U0002a6dd\U0002a700-\U0002b734\U0002b740-\U0002b81d\U0002b820-\U0002cea1\U0002ceb0-\U0002ebe0"
    "\U0002f800-\U0002fa1d\U00030000-\U0003134a"
)
_CJK: Final = f"[{_HANGUL_KANA}{_HAN}]"
_LETTER: Final = f"[^\\W\\d_{_HANGUL_KANA}{_HAN}]"
_OTHER: Final = f"[^\\W_{_HANGUL_KANA}{_HAN}]"
_PARTICLES: Final = (
    "[은는이가을를에의도로와과만란께랑야]|에서|에게|에는|에도|까지|부터|보다|처럼|으로|이나|이란|이랑|하고|마다|이다|"
    "이며|라도"
)
_INVISIBLE: Final = re.compile("[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufe00-\ufe0f\ufeff]")
_DIGIT_GROUPS: Final = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_PAIR: Final = re.compile(f"(?=({_CJK}{_CJK}))")
_SHORT_WORD: Final = re.compile(rf"\b([{_HANGUL_KANA}])(?:{_PARTICLES})?\b")
_CHAIN: Final = re.compile(rf"{_OTHER}+(?:[-_.@/:'’]+{_OTHER}+)*(?:(?<=[A-Za-z])[+#]+(?!\w))?")
_LEFT: Final = re.compile(rf"({_CJK})-?\Z")
_RIGHT: Final = re.compile(rf"-?({_CJK})")
_PART: Final = re.compile(r"(?<![\d.])\d+\.\d+(?![.\d])|\d+|[^\W\d_]+[+#]*")
_ALONE: Final = re.compile(rf"[ \n]({_CJK}|\d+)(?!\w)")
_UNIT: Final = re.compile(rf"{_CJK}|\d+")
_UNIT_AT_END: Final = re.compile(rf"(?:{_CJK}|\d+)\Z")
_WORD_AND_NUMBER: Final = re.compile(rf"(?<!\w)({_LETTER}+) (\d+)(?!\w)")
_HAN_CHARACTER: Final = re.compile(f"[{_HAN}]")
_CAMEL: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_MARKS: Final = re.compile("[\u0300-\u036f]+")
_LETTERS: Final = str.maketrans(
    {"ß": "ss", "ø": "o", "đ": "d", "ł": "l", "æ": "ae", "œ": "oe", "þ": "th", "ð": "d", "ı": "i"}
    | {"+": PLUS, "#": SHARP, ".": POINT}
)
_MAX_CHAIN: Final = 64


def tokens(text: str) -> list[str]:
    """The tokens of the text, the more useful ones first."""
    text = unicodedata.normalize("NFKC", text)
    if _INVISIBLE.search(text):
        text = _INVISIBLE.sub("", text)
    if "," in text:
        text = _DIGIT_GROUPS.sub("", text)
    found: list[str] = []
    bounded = f" {text} "
    for match in _CHAIN.finditer(bounded):
        start, end = match.span()
        left = right = None
        if bounded[start - 1] in "-" or bounded[start - 1] > "\u1100":
            left = _LEFT.search(bounded, start - 2, start)
        if bounded[end] in "-" or bounded[end] > "\u1100":
            right = _RIGHT.match(bounded, end)
        chain = match[0]
        if left or right or not chain.isascii() or not (chain.islower() or chain.istitle()) or not chain.isalpha():
            _add_chain(found, left[1] if left else "", chain, right[1] if right else "")
        else:  # Most words of English.
            found.append(stem(chain.lower()))
    found += _SHORT_WORD.findall(text)
    found += _PAIR.findall(text)
    _add_over_blanks(found, bounded)
    found += dict.fromkeys(_HAN_CHARACTER.findall(text))
    return found


def _add_chain(found: list[str], left: str, chain: str, right: str) -> None:
    """Tokens of numbers and Latin words that are joined by signs or by nothing. ``left``, ``right``: CJK neighbours."""
    if chain.isdecimal():
        parts = [chain]
    elif chain.isalpha() and chain.isascii() and (chain.islower() or chain.isupper() or chain.istitle()):
        parts = [chain.lower()]
    else:
        parts = [part for one in _PART.findall(_folded(chain)) for part in _parts(one)]
        if not parts:
            return
    units = [part[1:] if len(part) == 2 and part[0] == "0" else stem(part) for part in parts]  # 01월 is 1월.
    found += units
    if left:
        found.append(left + units[0])
    if right:
        found.append(units[-1] + right)
    if len(parts) > 1:
        whole = "".join(parts)
        if len(whole) <= _MAX_CHAIN:
            found.append(stem(whole))
        if len(parts) > 2:
            found += map(stem, map(str.__add__, parts, parts[1:]))


def _folded(text: str) -> str:
    """Without accents."""
    if text.isascii():
        return text
    return unicodedata.normalize("NFC", _MARKS.sub("", unicodedata.normalize("NFD", text)))


def _lower(text: str) -> str:
    return text.lower().translate(_LETTERS)


def _parts(part: str) -> list[str]:
    """The words of a Latin word such as getUserName, or the number, in lower case and with letters for signs."""
    word = part.rstrip("+#")
    if not word.isascii() or word.islower() or word.isupper() or word.istitle():
        words = [word]
    else:
        words = _CAMEL.findall(word) or [word]
    words[-1] += part[len(word) :]
    return [_lower(word) for word in words]


def _add_over_blanks(found: list[str], text: str) -> None:
    """Pairs over a blank of which one side is a word of one character, or a number. ``text`` begins with a blank."""
    before = -1
    for match in _ALONE.finditer(text):
        start, end, unit = match.start(), match.end(), match[1]
        if start != before and (left := _UNIT_AT_END.search(text, max(0, start - _MAX_CHAIN), start)):
            found.append(left[0] + unit)
        before = end
        if text.startswith(" ", end) and (right := _UNIT.match(text, end + 1)):
            found.append(unit + right[0])
    for word, number in _WORD_AND_NUMBER.findall(text):
        found.append(_lower(_folded(word)) + number)  # As whole chains, e.g. iPhone15.
