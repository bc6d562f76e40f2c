"""Packing sequences for one forward pass without padding and without repeating what they share.

The sequences of a row form a trie: a token stands once wherever the ids before it are the same, be it a role's
instructions, the prompt of a group or the first words of two replies. What a token's hidden state is depends on the
ids before it alone, so sharing changes nothing. In attention each prompt stands alone with its completions, as a
tree: a mask lets a token see the path that leads to it, and position ids count along that path, so every
log-probability is that of the sequence on its own and attention costs what the trees cost, not what the row does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from magic_rl.engines.local.attention import Trees
from magic_rl.types import Tokens


@dataclass(frozen=True, slots=True)
class Pack:
    """One row for the model.

    Attributes:
        ids: Token ids, shape (1, L).
        positions: Position of each token along its path, shape (1, L).
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


_Completions = Sequence[tuple[int, Tokens]]  # which sequence, and its completion


@dataclass(slots=True)
class _Tree:
    """A prompt and completions as they would stand in a row.

    Attributes:
        fresh: Tokens that the row does not hold yet: (place of the token before, id) -> place in the row.
        members: Places of all the tree's tokens, in order.
        predict: Place whose output predicts each target, completion by completion.
    """

    fresh: dict[tuple[int, int], int]
    members: list[int]
    predict: list[int]


@dataclass(slots=True)
class _Row:
    """A pack being filled."""

    places: dict[tuple[int, int], int] = field(default_factory=dict)  # (place of the token before, id) -> place
    positions: list[int] = field(default_factory=list)
    trees: list[_Tree] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    sequences: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    longest: int = 0  # tokens of the longest tree

    def lay(self, prompt: Tokens, completions: _Completions) -> _Tree:
        """How a tree would stand in the row."""
        fresh: dict[tuple[int, int], int] = {}

        def path(tokens: Tokens, place: int) -> list[int]:
            out = []
            for key_id in tokens:
                key = (place, key_id)
                known = self.places.get(key)
                place = fresh.setdefault(key, len(self.places) + len(fresh)) if known is None else known
                out.append(place)
            return out

        stem = path(prompt, -1)
        members, predict = dict.fromkeys(stem), []
        for _, completion in completions:
            # The last token predicts nothing, so it is a target but never an input.
            branch = path(completion[:-1], stem[-1])
            members.update(dict.fromkeys(branch))
            predict += [stem[-1], *branch]
        return _Tree(fresh, sorted(members), predict)

    def fits(self, tree: _Tree, budget: int) -> bool:
        # Attention fills shorter trees up to the longest, so a row must not join a long one with many short ones.
        filled = (len(self.trees) + 1) * max(self.longest, len(tree.members)) ** 2
        return not self.trees or (len(self.places) + len(tree.fresh) <= budget and filled <= budget**2)

    def add(self, tree: _Tree, completions: _Completions) -> None:
        for before, _ in tree.fresh:
            self.positions.append(self.positions[before] + 1 if before >= 0 else 0)
        self.places.update(tree.fresh)
        self.trees.append(tree)
        self.longest = max(self.longest, len(tree.members))
        for index, completion in completions:
            self.targets += completion
            self.sequences.append(index)
            self.lengths.append(len(completion))

    def pack(self) -> Pack:
        return Pack(
            ids=torch.tensor([[token for _, token in self.places]]),
            positions=torch.tensor([self.positions]),
            trees=self._trees(),
            predict=torch.tensor([place for tree in self.trees for place in tree.predict]),
            targets=torch.tensor(self.targets),
            sequences=self.sequences,
            lengths=self.lengths,
        )

    def _trees(self) -> Trees:
        before = [place for place, _ in self.places]
        tokens = np.zeros((len(self.trees), self.longest), dtype=np.int64)
        first: dict[int, int] = {}  # slot of each token in the flattened `tokens`, in the first tree that holds it
        seen = []  # slot of the token before, for each tree's tokens
        for number, tree in enumerate(self.trees):
            tokens[number, : len(tree.members)] = tree.members
            slots = {place: slot for slot, place in enumerate(tree.members)}
            seen.append([slots.get(before[place], -1) for place in tree.members])
            for place, slot in slots.items():
                first.setdefault(place, number * self.longest + slot)
        return Trees(
            tokens=torch.from_numpy(tokens),
            mask=_paths(seen, self.longest),
            positions=torch.tensor(self.positions)[torch.from_numpy(tokens)],
            places=torch.tensor([first[place] for place in range(len(before))]),
        )


def _paths(seen: Sequence[Sequence[int]], size: int) -> Tensor | None:
    """Mask of the path to each token: itself, the token before it, and that one's path.

    Args:
        seen: For each tree, the slot of the token before each token; -1 for the first.

    Returns:
        Shape (T, 1, size, size); None where no tree forks, as plain causal attention does then.
    """
    if all(slot == place - 1 for tree in seen for place, slot in enumerate(tree)):
        return None
    # Slots that fill a shorter tree up see themselves, so that no softmax is empty; nothing reads them.
    mask = np.broadcast_to(np.eye(size, dtype=bool), (len(seen), size, size)).copy()
    for number, tree in enumerate(seen):
        for place, slot in enumerate(tree[1:], start=1):
            mask[number, place] |= mask[number, slot]
    return torch.from_numpy(mask[:, None])


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
    for prompt, completions in sorted(trees.items()):  # prompts that begin alike come to stand in one row
        for part in _split(prompt, completions, budget):
            tree = row.lay(prompt, part)
            if not row.fits(tree, budget):
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
