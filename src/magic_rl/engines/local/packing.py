"""Packing sequences for one forward pass without padding and without repeating a shared prompt.

Sequences with the same prompt form a tree: the prompt once, its completions behind it. Several trees lie one
after another in one row. In attention each tree stands alone: a mask lets a token see its own tree's prompt and
its own completion's past, and position ids count along each branch, so every log-probability is that of the
sequence on its own and attention costs what the trees cost, not what the row does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from magic_rl.engines.local.attention import Trees
from magic_rl.types import Tokens

_PROMPT, _NOBODY = -1, -2  # branch of a prompt's tokens, and of the places that fill a shorter tree up


@dataclass(frozen=True, slots=True)
class Pack:
    """One row for the model.

    Attributes:
        ids: Token ids, shape (1, L).
        positions: Position of each token along its branch, shape (1, L).
        trees: Which tokens stand in one tree, and who may attend to whom there.
        predict: Index into the row whose output predicts each target, shape (M,).
        targets: Completion tokens, sequence by sequence, shape (M,).
        sequences: Which sequences the row holds, in the order of `targets`.
        lengths: Number of targets of each of `sequences`.
    """

    ids: Tensor
    positions: Tensor
    trees: Trees
    predict: Tensor
    targets: Tensor
    sequences: list[int]
    lengths: list[int]


@dataclass(slots=True)
class _Row:
    """A pack being filled."""

    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    trees: list[int] = field(default_factory=list)  # tree of each token
    branches: list[int] = field(default_factory=list)  # branch of each token
    predict: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    sequences: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    longest: int = 0  # tokens of the longest tree

    @property
    def count(self) -> int:
        return self.trees[-1] + 1 if self.trees else 0

    def add(self, prompt: Tokens, completions: Sequence[tuple[int, Tokens]]) -> None:
        tree = self.count
        self._extend(prompt, 0, tree, _PROMPT)
        last = len(self.ids) - 1
        for index, completion in completions:
            start = len(self.ids)
            # The last token predicts nothing, so it is a target but never an input.
            self._extend(completion[:-1], len(prompt), tree, index)
            self.predict += [last, *range(start, len(self.ids))]
            self.targets += completion
            self.sequences.append(index)
            self.lengths.append(len(completion))

    def _extend(self, tokens: Tokens, first_position: int, tree: int, branch: int) -> None:
        self.ids += tokens
        self.positions += range(first_position, first_position + len(tokens))
        self.trees += [tree] * len(tokens)
        self.branches += [branch] * len(tokens)

    def pack(self) -> Pack:
        return Pack(
            ids=torch.tensor([self.ids]),
            positions=torch.tensor([self.positions]),
            trees=self._trees(),
            predict=torch.tensor(self.predict),
            targets=torch.tensor(self.targets),
            sequences=self.sequences,
            lengths=self.lengths,
        )

    def _trees(self) -> Trees:
        tree, branch = torch.tensor(self.trees), torch.tensor(self.branches)
        sizes = tree.bincount()
        size = int(sizes.max())
        slot = torch.arange(len(tree)) - (sizes.cumsum(0) - sizes)[tree]
        tokens = torch.zeros(len(sizes), size, dtype=torch.long)
        tokens[tree, slot] = torch.arange(len(tree))
        branches = torch.full_like(tokens, _NOBODY)
        branches[tree, slot] = branch
        on_branch = (branches[:, :, None] == branches[:, None, :]) | (branches[:, None, :] == _PROMPT)
        mask = on_branch & torch.ones(size, size, dtype=torch.bool).tril()
        return Trees(tokens, mask[:, None], torch.tensor(self.positions)[tokens], tree * size + slot)


def pack(sequences: Sequence[tuple[Tokens, Tokens]], budget: int) -> Iterator[Pack]:
    """Lay (prompt, completion) pairs out in rows of at most `budget` tokens.

    A row's mask stays within `budget` squared too. A tree larger than the budget is split and its prompt repeated;
    a single sequence larger than the budget gets a row of its own. The order of rows is deterministic.

    Raises:
        ValueError: If a prompt or completion is empty.
    """
    trees: dict[Tokens, list[tuple[int, Tokens]]] = {}
    for index, (prompt, completion) in enumerate(sequences):
        if not prompt or not completion:
            raise ValueError("a sequence to learn from needs a prompt and a completion")
        trees.setdefault(prompt, []).append((index, completion))
    row = _Row()
    for prompt, completions in trees.items():
        for part in _split(prompt, completions, budget):
            size = len(prompt) + sum(len(completion) - 1 for _, completion in part)
            # Attention fills shorter trees up to the longest, so a row must not join a long one with many short ones.
            filled = (row.count + 1) * max(row.longest, size) ** 2
            if row.ids and (len(row.ids) + size > budget or filled > budget**2):
                yield row.pack()
                row = _Row()
            row.add(prompt, part)
            row.longest = max(row.longest, size)
    if row.ids:
        yield row.pack()


def _split(
    prompt: Tokens, completions: Sequence[tuple[int, Tokens]], budget: int
) -> Iterator[list[tuple[int, Tokens]]]:
    """Parts of a tree that fit the budget together with the prompt."""
    part: list[tuple[int, Tokens]] = []
    size = len(prompt)
    for index, completion in completions:
        if part and size + len(completion) - 1 > budget:
            yield part
            part, size = [], len(prompt)
        part.append((index, completion))
        size += len(completion) - 1
    yield part
