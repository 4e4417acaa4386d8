"""Health: what load balancers and monitors send."""

from tests.table.frame import Call, Row

PATHS = ("/health", "/health/live", "/health/ready")
ROWS: list[Row] = [
    *(Row("health", f"{method} {path}", Call(method, path), 200) for path in PATHS for method in ("GET", "HEAD")),
    *(Row("health", f"HEAD {path} with a cache buster", Call("HEAD", f"{path}?_=1"), 200) for path in PATHS),
    *(Row("health", f"POST {path}", Call("POST", path), 405, {"code": "method_not_allowed"}) for path in PATHS),
]
