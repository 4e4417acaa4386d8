"""The old name of ``scripts.korquad``, for ``scripts/benchmarks/against.py``."""

from scripts.korquad import paragraphs

__all__ = ["paragraphs"]
