"""Unicode helpers: NFC, in which text is compared, and blank text, which has no visible character."""

import unicodedata
from typing import Any


def is_nfc(text: str) -> bool:
    return text.isascii() or unicodedata.is_normalized("NFC", text)


def nfc(text: str) -> str:
    """The text in Normalization Form C (https://unicode.org/reports/tr15/); the same object if it is in NFC."""
    return text if is_nfc(text) else unicodedata.normalize("NFC", text)


class CollidingKeys(ValueError):
    """Two keys of one JSON object are equal in NFC. ``key`` is their common form."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


def nfc_json(value: Any) -> Any:
    """The same JSON with all keys and strings in NFC. Raises CollidingKeys. Recursive: limit the depth before."""
    match value:
        case str():
            return nfc(value)
        case list():
            return [nfc_json(item) for item in value]
        case dict():
            normalized: dict[str, Any] = {}
            for key, item in value.items():
                if (name := nfc(key)) in normalized:
                    raise CollidingKeys(name)
                normalized[name] = nfc_json(item)
            return normalized
    return value


_DEFAULT_IGNORABLE = (
    "00AD 034F 061C 115F-1160 17B4-17B5 180B-180F 200B-200F 202A-202E 2060-206F 3164 FE00-FE0F FEFF FFA0 FFF0-FFF8 "
    "1BCA0-1BCA3 1D173-1D17A E0000-E0FFF"
)
"""The property Default_Ignorable_Code_Point (DerivedCoreProperties.txt of Unicode 16)."""
_BRAILLE_BLANK = "2800"
_ANNOTATION_MARKS = "FFF9-FFFB"


def _characters(ranges: str) -> set[str]:
    found: set[str] = set()
    for part in ranges.split():
        first, _, last = part.partition("-")
        found.update(map(chr, range(int(first, 16), int(last or first, 16) + 1)))
    return found


INVISIBLE = frozenset(
    _characters(f"{_DEFAULT_IGNORABLE} {_BRAILLE_BLANK} {_ANNOTATION_MARKS}")
    | {char for char in map(chr, range(0x3001)) if char.isspace() or unicodedata.category(char) == "Cc"}
)
"""White space, control characters, and characters that are drawn as nothing: zero-width spaces and joiners, fillers,
direction marks, variation selectors, tags."""


def blank(text: str) -> bool:
    """Whether no character of the text is visible."""
    return not text or (text[0] in INVISIBLE and all(map(INVISIBLE.__contains__, text)))
