"""Randomness without a global generator.

Every draw comes from `(rng_seed, step, purpose, index)`, so the position of the generator *is* the step
number: a resumed run draws what the unbroken one would have drawn, no matter what happened in between.
"""

from __future__ import annotations

import zlib

import numpy as np


def derive(rng_seed: int, step: int, purpose: str, index: int = 0) -> int:
    """A 63-bit seed for one purpose at one step, independent of all others."""
    sequence = np.random.SeedSequence([rng_seed, step, zlib.crc32(purpose.encode()), index])
    return int(sequence.generate_state(1, np.uint64)[0] >> 1)


def generator(rng_seed: int, step: int, purpose: str, index: int = 0) -> np.random.Generator:
    """A generator for one purpose at one step."""
    return np.random.default_rng(derive(rng_seed, step, purpose, index))


def uniforms(rng_seed: int, rows: int, length: int) -> np.ndarray:
    """Uniform draws in [0, 1), shape (rows, length). Row i depends on `(rng_seed, i)` alone, not on `rows`."""
    out = np.empty((rows, length), dtype=np.float64)
    for row in range(rows):
        out[row] = np.random.default_rng([rng_seed, row]).random(length)
    return out
