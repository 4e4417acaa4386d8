"""Conditional requests (RFC 9110, section 13): ETag, If-Match and If-None-Match of documents."""

import re
from typing import Annotated, Any, Final

from fastapi import Depends, Header, Request, Response

from app.schemas.versions import ANY, DocumentVersion, Precondition
from app.utils.errors import InvalidInput

ENTITY_TAG: Final = re.compile(r'(W/)?("[\x21\x23-\x7e\x80-\xff]*")')
NOT_ETAGS: Final = 'is neither * nor a list of ETags in double quotes, such as "5-1a", with commas between them'
ETAG: Final[dict[str, Any]] = {
    "headers": {"ETag": {"description": "The version of the document.", "schema": {"type": "string"}}}
}
"""The OpenAPI description of a response with an ETag."""
NOT_MODIFIED: Final[dict[str, Any]] = {"description": "If-None-Match has the document's ETag. No body.", **ETAG}

IfMatch = Annotated[
    str | None,
    Header(alias="If-Match", description="ETags: only if the document has one of them, else 412. *: if it exists."),
]
IfNoneMatch = Annotated[
    str | None,
    Header(
        alias="If-None-Match",
        description="ETags: not if the document has one of them. A read is then answered with 304, a write with 412. "
        "*: only if there is no document.",
    ),
]


async def precondition(
    request: Request, _if_match: IfMatch = None, _if_none_match: IfNoneMatch = None
) -> Precondition | None:
    """None for a request without conditions. Raises InvalidInput. A header may be repeated, so all are read here."""
    if_match, if_none_match = _etags(request, "If-Match", weak=False), _etags(request, "If-None-Match", weak=True)
    return None if if_match is if_none_match is None else Precondition(if_match, if_none_match)


PreconditionDep = Annotated[Precondition | None, Depends(precondition)]


def not_modified(condition: Precondition | None, version: DocumentVersion, response: Response) -> Response | None:
    """The answer to a read whose client has this version, and None for any other, whose ``response`` gets the ETag.

    Raises PreconditionFailed.
    """
    if condition is not None:
        condition.check_read(version)
        if condition.names(version):
            return Response(status_code=304, headers={"ETag": version.etag})
    response.headers["ETag"] = version.etag
    return None


def _etags(request: Request, name: str, *, weak: bool) -> frozenset[str] | None:
    """Those of the header. ``weak``: whether W/"a" names the same version as "a"; else it names none."""
    lines = request.headers.getlist(name)
    if not lines:
        return None
    value = ", ".join(lines).strip(" \t")
    if value == ANY:
        return frozenset({ANY})
    found: set[str] = set()
    position, separated = 0, True
    while position < len(value):
        if value[position] in " \t,":
            separated, position = separated or value[position] == ",", position + 1
            continue
        tag = ENTITY_TAG.match(value, position)
        if tag is None or not separated:
            raise InvalidInput.at(f"header.{name}", NOT_ETAGS)
        if weak or not tag[1]:
            found.add(tag[2])
        separated, position = False, tag.end()
    if not value.strip(" \t,"):
        raise InvalidInput.at(f"header.{name}", NOT_ETAGS)
    return frozenset(found)
