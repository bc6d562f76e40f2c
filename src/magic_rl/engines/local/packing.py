"""Packing sequences for one forward pass without padding and without repeating what they share.

The sequences of a row form a trie, which holds what they begin with alike once: a role's instructions, the prompt of a
group, the first words of two replies. A token's hidden state depends only on the ids up to it, so sharing changes
nothing. Position ids count along the path that leads to a token, and the token attends to that path only (`Layout`), so
every log-probability is that of the sequence computed alone. If a prompt's completions do not fit into one row, the
prompt is computed by itself and several rows continue it (`Batch`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Int
from torch import Tensor

from magic_rl.engines.local.layout import Layout
from magic_rl.types import Tokens

_COPIES = 8  # tokens whose keys and values attention may copy, as a multiple of the budget


@dataclass(frozen=True, slots=True)
class Pack:
    """One row for the model. It leaves out known first tokens, which only the places in `layout` count."""

    ids: Int[Tensor, "N L"]  # token ids of one packed row, or of N plain rows of one sequence each
    positions: Int[Tensor, "N L"]  # position of each token along its path
    layout: Layout | None  # where prompts and completions are, for attention; None for plain rows
    predict: Int[Tensor, " M"]  # index into the flat `ids` of the token whose output predicts each of M targets
    targets: Int[Tensor, " M"]  # completion tokens, sequence by sequence
    sequences: list[int]  # which sequences the row holds, in the order of `targets`
    lengths: list[int]  # number of targets of each of `sequences`

    @property
    def laid_out(self) -> Layout:
        """The layout of a packed row."""
        if self.layout is None:
            raise ValueError("a plain row has no layout")
        return self.layout


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows to be computed one after another, all behind the same prefix, whose activations are kept throughout."""

    # Tokens that come before each row but are in none; empty unless there are several rows.
    prefix: Tokens
    rows: list[Pack]  # at least one

    @property
    def tokens(self) -> int:
        """The largest number of tokens whose activations exist at the same time."""
        return len(self.prefix) + max(row.ids.numel() for row in self.rows)


Completions = Sequence[tuple[int, Tokens]]  # (index of the sequence, its completion)


@dataclass(frozen=True, slots=True)
class _Tree:
    """The places that the tokens of a prompt and its completions would have in a row."""

    fresh: dict[tuple[int, int], int]  # tokens that the row does not hold yet: (place of the token before, id) -> place
    prompt: list[int]
    completions: list[list[int]]

    @property
    def branch(self) -> int:
        """Tokens of the longest completion, without its last."""
        return max(map(len, self.completions))


@dataclass(slots=True)
class _Row:
    """A row being filled."""

    places: dict[tuple[int, int], int] = field(default_factory=dict)  # (place of the token before, id) -> place
    positions: list[int] = field(default_factory=list)
    trees: list[_Tree] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    sequences: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)

    def lay(self, prompt: Tokens, completions: Completions) -> _Tree:
        """The places that a tree would have in the row."""
        fresh: dict[tuple[int, int], int] = {}

        def path(tokens: Tokens, before: int) -> list[int]:
            out = []
            for token in tokens:
                known = self.places.get((before, token))
                if known is None:
                    known = fresh.setdefault((before, token), len(self.places) + len(fresh))
                out.append(before := known)
            return out

        trunk = path(prompt, -1)
        # The last token predicts nothing, so it is a target but never an input.
        return _Tree(fresh, trunk, [path(completion[:-1], trunk[-1]) for _, completion in completions])

    def fits(self, tree: _Tree, budget: int) -> bool:
        """Whether the row with this tree, and what attention computes and copies, padding included, stay in bounds."""
        trees = [*self.trees, tree]
        prompt, branch = max(len(t.prompt) for t in trees), max(t.branch for t in trees)
        completions = sum(len(t.completions) for t in trees)
        computed = len(trees) * prompt**2 + completions * branch * (prompt + branch)
        # Each completion gets a copy of its prompt's keys and values, which is small beside all else that is kept.
        copied = completions * (prompt + branch)
        return len(self.places) + len(tree.fresh) <= budget and computed <= budget**2 and copied <= _COPIES * budget

    def add(self, tree: _Tree, completions: Completions) -> None:
        for before, _ in tree.fresh:
            self.positions.append(self.positions[before] + 1 if before >= 0 else 0)
        self.places.update(tree.fresh)
        self.trees.append(tree)
        for index, completion in completions:
            self.targets += completion
            self.sequences.append(index)
            self.lengths.append(len(completion))

    def pack(self, known: int = 0) -> Pack:
        """The row without the `known` tokens that all its prompts begin with; these have the first places."""
        branches = [(number, branch) for number, tree in enumerate(self.trees) for branch in tree.completions]
        predict = [place for number, branch in branches for place in (self.trees[number].prompt[-1], *branch)]
        return Pack(
            ids=torch.tensor([[token for _, token in self.places][known:]]),
            positions=torch.tensor([self.positions[known:]]),
            layout=Layout([tree.prompt for tree in self.trees], branches, known),
            predict=torch.tensor(predict) - known,
            targets=torch.tensor(self.targets),
            sequences=self.sequences,
            lengths=self.lengths,
        )


def pack(sequences: Sequence[tuple[Tokens, Tokens]], budget: int) -> Iterator[Batch]:
    """Lay (prompt, completion) pairs out in batches, in an order that depends on the pairs alone.

    A tree is a prompt with its completions. Trees share a row as long as it has at most `budget` tokens and attention
    computes at most `budget`² scores. The completions of a single tree get what its prompt leaves of the budget, or
    half the budget if that is more; if they need more than this, the tree becomes a batch of several rows.

    Raises:
        ValueError: If a prompt or completion is empty.
    """
    row = _Row()
    for prompt, completions in _by_prompt(sequences):
        parts = list(_split(prompt, completions, budget))
        if len(parts) > 1:
            # Each row holds the prompt's last token, whose output predicts the completions' first tokens.
            prefix = prompt[:-1]
            yield Batch(prefix, [one_row([(prompt, part)], known=len(prefix)) for part in parts])
            continue
        tree = row.lay(prompt, completions)
        if row.trees and not row.fits(tree, budget):
            yield Batch((), [row.pack()])
            row = _Row()
            tree = row.lay(prompt, completions)
        row.add(tree, completions)
    if row.trees:
        yield Batch((), [row.pack()])


def padded(sequences: Sequence[tuple[Tokens, Tokens]], budget: int, *, pads: bool = True) -> Iterator[Batch]:
    """Lay (prompt, completion) pairs out in plain rows, sharing nothing; a batch has rows of similar length.

    Padding is on the right, where no token of the sequence sees it.

    Args:
        budget: Most tokens in a batch, padding included, unless one sequence alone has more.
        pads: Whether to pad at all; if not, only rows of equal length form a batch.

    Raises:
        ValueError: If a prompt or completion is empty.
    """
    _by_prompt(sequences)  # raises
    beside: list[int] = []

    def length(index: int) -> int:
        return len(sequences[index][0]) + len(sequences[index][1]) - 1

    # Longest first: it decides how many fit, and later batches reuse the memory of the first.
    for index in sorted(range(len(sequences)), key=lambda index: (-length(index), index)):
        longest = length(beside[0]) if beside else 0
        if beside and ((len(beside) + 1) * longest > budget or not (pads or length(index) == longest)):
            yield Batch((), [_filled_up(sequences, beside)])
            beside = []
        beside.append(index)
    if beside:
        yield Batch((), [_filled_up(sequences, beside)])


def _filled_up(sequences: Sequence[tuple[Tokens, Tokens]], chosen: list[int]) -> Pack:
    whole = [(*sequences[index][0], *sequences[index][1][:-1]) for index in chosen]
    longest = max(map(len, whole))
    lengths = [len(sequences[index][1]) for index in chosen]
    ends = [row * longest + len(ids) for row, ids in enumerate(whole)]
    return Pack(
        ids=torch.tensor([[*ids, *[0] * (longest - len(ids))] for ids in whole]),
        positions=torch.arange(longest).expand(len(whole), -1),
        layout=None,
        predict=torch.tensor([i for end, own in zip(ends, lengths, strict=True) for i in range(end - own, end)]),
        targets=torch.tensor([token for index in chosen for token in sequences[index][1]]),
        sequences=chosen,
        lengths=lengths,
    )


def one_row(trees: Sequence[tuple[Tokens, Completions]], known: int = 0) -> Pack:
    """Prompts with their completions in one row, in the order given.

    Args:
        known: How many tokens that all prompts begin with the row leaves out; fewer than any prompt has.
    """
    row = _Row()
    for prompt, completions in trees:
        row.add(row.lay(prompt, completions), completions)
    return row.pack(known)


def _by_prompt(sequences: Sequence[tuple[Tokens, Tokens]]) -> list[tuple[Tokens, list[tuple[int, Tokens]]]]:
    """The completions of each prompt; prompts that begin alike are neighbours."""
    trees: dict[Tokens, list[tuple[int, Tokens]]] = {}
    for index, (prompt, completion) in enumerate(sequences):
        if not prompt or not completion:
            raise ValueError("a sequence to learn from needs a prompt and a completion")
        trees.setdefault(prompt, []).append((index, completion))
    return sorted(trees.items())


def _split(prompt: Tokens, completions: Completions, budget: int) -> Iterator[Completions]:
    """Split completions into parts that fit what the prompt leaves of the budget, or half of it if that is more."""
    room = max(budget - len(prompt), budget // 2)
    most = _COPIES * max(budget, len(prompt)) // len(prompt)
    part: list[tuple[int, Tokens]] = []
    size = 0
    for index, completion in completions:
        own = len(completion) - 1
        if part and (size + own > room or len(part) == most):
            yield part
            part, size = [], 0
        part.append((index, completion))
        size += own
    yield part
