"""Tests in which a store of a running server process is unreachable, killed, out of disk space or loses its data."""
