"""Shared test support: fakes, tiny models and fabricated runs."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The repository's folder."""
