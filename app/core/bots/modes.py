"""Which search modes a bot can serve."""

from app.schemas.rows import Mode
from app.utils.errors import ErrorLocation, UnsupportedMode


def check_mode(mode: Mode | None, supports_lexical: bool) -> None:
    """Raises UnsupportedMode for a mode that needs words where there are none. None: no mode is named."""
    if mode in ("lexical", "hybrid") and not supports_lexical:
        detail = f"This bot's collection holds no words, so that {mode} mode cannot be served; use dense."
        raise UnsupportedMode(detail, locations=[ErrorLocation("body.mode", detail)])
