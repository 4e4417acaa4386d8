"""The stem of an English word: what is left without the endings of inflection."""

import re
from typing import Final

_IRREGULAR: Final = {
    "children": "child",
    "men": "man",
    "women": "woman",
    "people": "person",
    "feet": "foot",
    "teeth": "tooth",
    "mice": "mouse",
}
_VOWEL: Final = re.compile("[aeiouy]")
_LAST_LETTERS: Final = frozenset("sdgeynt")


def stem(word: str) -> str:
    """``word``: in lower case. The same stem for refund, refunds, refunded and refunding; it need not be a word.

    Words of other languages lose the same endings, in a text as in a query, so they are found all the same.
    """
    last = word[-1]
    if last not in _LAST_LETTERS or len(word) < 4 or not (word.isascii() and word.isalpha()):
        return word
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if last == "s":
        if word.endswith("ies"):
            word = word[:-3] + "y"
        elif word.endswith("ves"):
            word = word[:-3] + "f"
        elif word.endswith(("sses", "shes", "ches", "xes", "zes")):
            word = word[:-2]
        elif word[-2] not in "sui":
            word = word[:-1]
    elif last in "dg":
        ending = "ed" if last == "d" else "ing"
        rest = word.removesuffix(ending)
        if rest != word and len(rest) >= 3 and _VOWEL.search(rest):
            word = rest[:-1] if rest[-1] == rest[-2] and rest[-1] not in "sz" else rest
    if len(word) > 3:
        if word[-1] == "e":
            return word[:-1]
        if word[-1] == "y":
            return word[:-1] + "i"
    return word
