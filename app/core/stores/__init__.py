"""The stores and their drivers."""

import os

# Read by gRPC's core at import, which else prints each TLS handshake that fails to stderr, as no log line of ours.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
