"""The stores and their drivers."""

import os

# gRPC's core reads this at import. Otherwise it prints every failed TLS handshake to stderr, not to the log.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
