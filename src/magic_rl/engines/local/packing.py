"""Packing sequences for one forward pass without padding and without repeating what they share.

The sequences of a row form a trie: a token stands once wherever the ids before it are the same, be it a role's
instructions, the prompt of a group or the first words of two replies. What a token's hidden state is depends on the
ids before it alone, so sharing changes nothing. Position ids count along the path that leads to a token and it
attends to that path only (`Layout`), so every log-probability is that of the sequence on its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from magic_rl.engines.local.layout import Layout
from magic_rl.types import Tokens

_COPIES = 8  # keys and values that attention may copy, in tokens, as a multiple of the budget


@dataclass(frozen=True, slots=True)
class Pack:
    """One row for the model.

    Attributes:
        ids: Token ids, shape (1, L).
        positions: Position of each token along its path, shape (1, L).
        layout: Where prompts and completions stand, for attention.
        predict: Index into the row whose output predicts each target, shape (M,).
        targets: Completion tokens, sequence by sequence, shape (M,).
        sequences: Which sequences the row holds, in the order of `targets`.
        lengths: Number of targets of each of `sequences`.
    """

    ids: Tensor
    positions: Tensor
    layout: Layout
    predict: Tensor
    targets: Tensor
    sequences: list[int]
    lengths: list[int]


_Completions = Sequence[tuple[int, Tokens]]  # which sequence, and its completion


@dataclass(frozen=True, slots=True)
class _Tree:
    """A prompt and completions as they would stand in a row.

    Attributes:
        fresh: Tokens that the row does not hold yet: (place of the token before, id) -> place in the row.
        prompt: Places of the prompt's tokens.
        completions: Places of each completion's tokens.
    """

    fresh: dict[tuple[int, int], int]
    prompt: list[int]
    completions: list[list[int]]

    @property
    def branch(self) -> int:
        """Tokens of the longest completion."""
        return max(map(len, self.completions))


@dataclass(slots=True)
class _Row:
    """A pack being filled."""

    places: dict[tuple[int, int], int] = field(default_factory=dict)  # (place of the token before, id) -> place
    positions: list[int] = field(default_factory=list)
    trees: list[_Tree] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    sequences: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)

    def lay(self, prompt: Tokens, completions: _Completions) -> _Tree:
        """How a tree would stand in the row."""
        fresh: dict[tuple[int, int], int] = {}

        def path(tokens: Tokens, before: int) -> list[int]:
            out = []
            for token in tokens:
                known = self.places.get((before, token))
                if known is None:
                    known = fresh.setdefault((before, token), len(self.places) + len(fresh))
                out.append(before := known)
            return out

        stem = path(prompt, -1)
        # The last token predicts nothing, so it is a target but never an input.
        return _Tree(fresh, stem, [path(completion[:-1], stem[-1]) for _, completion in completions])

    def fits(self, tree: _Tree, budget: int) -> bool:
        """Whether the row, and what attention computes when all are filled up to the longest, stay in bounds."""
        trees = [*self.trees, tree]
        stem, branch = max(len(t.prompt) for t in trees), max(t.branch for t in trees)
        completions = sum(len(t.completions) for t in trees)
        computed = len(trees) * stem**2 + completions * branch * (stem + branch)
        # Each completion has a copy of its prompt's keys and values, which are small beside all else that is kept.
        copied = completions * (stem + branch)
        return len(self.places) + len(tree.fresh) <= budget and computed <= budget**2 and copied <= _COPIES * budget

    def add(self, tree: _Tree, completions: _Completions) -> None:
        for before, _ in tree.fresh:
            self.positions.append(self.positions[before] + 1 if before >= 0 else 0)
        self.places.update(tree.fresh)
        self.trees.append(tree)
        for index, completion in completions:
            self.targets += completion
            self.sequences.append(index)
            self.lengths.append(len(completion))

    def pack(self) -> Pack:
        branches = [(number, branch) for number, tree in enumerate(self.trees) for branch in tree.completions]
        predict = [place for number, branch in branches for place in (self.trees[number].prompt[-1], *branch)]
        return Pack(
            ids=torch.tensor([[token for _, token in self.places]]),
            positions=torch.tensor([self.positions]),
            layout=Layout([tree.prompt for tree in self.trees], branches),
            predict=torch.tensor(predict),
            targets=torch.tensor(self.targets),
            sequences=self.sequences,
            lengths=self.lengths,
        )


def pack(sequences: Sequence[tuple[Tokens, Tokens]], budget: int) -> Iterator[Pack]:
    """Lay (prompt, completion) pairs out in rows of at most `budget` tokens.

    What attention computes stays within `budget` squared too. A tree larger than the budget is split and its prompt
    repeated; a single sequence larger than the budget gets a row of its own. The order of rows is deterministic.

    Raises:
        ValueError: If a prompt or completion is empty.
    """
    trees: dict[Tokens, list[tuple[int, Tokens]]] = {}
    for index, (prompt, completion) in enumerate(sequences):
        if not prompt or not completion:
            raise ValueError("a sequence to learn from needs a prompt and a completion")
        trees.setdefault(prompt, []).append((index, completion))
    row = _Row()
    for prompt, completions in sorted(trees.items()):  # prompts that begin alike come to stand in one row
        for part in _split(prompt, completions, budget):
            tree = row.lay(prompt, part)
            if row.trees and not row.fits(tree, budget):
                yield row.pack()
                row = _Row()
                tree = row.lay(prompt, part)
            row.add(tree, part)
    if row.trees:
        yield row.pack()


def side_by_side(prompts: Sequence[Tokens]) -> Pack:
    """Prompts in one row, a tree each and in the order given; `predict` holds the place of each one's last token."""
    row = _Row()
    for index, prompt in enumerate(prompts):
        completion = [(index, prompt[-1:])]  # what follows is not known yet: any one token will do
        row.add(row.lay(prompt, completion), completion)
    return row.pack()


def _split(prompt: Tokens, completions: _Completions, budget: int) -> Iterator[_Completions]:
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
