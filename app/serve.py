"""python -m app.serve: the server on HOST and PORT, with a word for what keeps it from starting."""

import socket
import sys

import uvicorn
from pydantic import ValidationError

from app.config import Settings


def main() -> int:
    try:
        settings = Settings()
    except ValidationError as exc:
        for error in exc.errors():
            print(f"{str(error['loc'][0]).upper()}: {error['msg']}", file=sys.stderr)
        return 2
    with socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as exc:
            place = f"{settings.host}:{settings.port}"
            print(f"Cannot listen on {place} ({exc.strerror}): choose another with HOST or PORT.", file=sys.stderr)
            return 2
    uvicorn.run("app.main:app", host=settings.host, port=settings.port, log_level=settings.log_level.lower())
    return 0


if __name__ == "__main__":
    sys.exit(main())
