"""What tests share: fakes, tiny models and fabricated runs."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The repository."""
