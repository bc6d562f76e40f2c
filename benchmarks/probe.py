"""How well harmful and benign requests can be told apart at all: a linear probe of the untouched model's hidden states.

A ridge classifier is fitted to the hidden states at the last token of each plain training seed's prompt. Its layer and
penalty are chosen on the validation categories, and it is scored once on the held-out ones. J = TPR − FPR is what a
defender with these states and a linear read-out would reach on plain requests; compare it with compliance − ASR.

    python benchmarks/probe.py demo
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from magic_rl.config import load_config
from magic_rl.engines.local.models import resolve_model
from magic_rl.evaluation.estimates import difference, rate_of
from magic_rl.game.play import defender_messages, plain_turn
from magic_rl.runs.assembly import Setup, prepare
from magic_rl.types import Seed

PENALTIES = (1.0, 10.0, 100.0, 1000.0, 10000.0)

States = npt.NDArray[np.float64]


def states(model: PreTrainedModel, setup: Setup, seeds: Sequence[Seed]) -> States:
    """Hidden states at the last token of each seed's prompt, shape (layers, seeds, width)."""
    player = setup.player("defender")
    rows = []
    for seed in seeds:
        prompt = player.renderer.prompt(defender_messages(player, [plain_turn(seed.text)]))
        with torch.inference_mode():
            hidden = model(torch.tensor([prompt]), output_hidden_states=True).hidden_states
        rows.append(torch.stack([layer[0, -1].float() for layer in hidden]).numpy())
    return np.stack(rows, axis=1).astype(np.float64)


def fit(x: States, y: npt.NDArray[np.bool_], penalty: float) -> tuple[npt.NDArray[np.float64], States, States]:
    """Weights (width + 1,) of a ridge classifier on standardised states, and the mean and scale it standardises by."""
    mean, scale = x.mean(axis=0), x.std(axis=0) + 1e-6
    design = np.c_[(x - mean) / scale, np.ones(len(x))]
    gram = design.T @ design + penalty * np.diag([*np.ones(x.shape[1]), 0.0])
    return np.linalg.solve(gram, design.T @ np.where(y, 1.0, -1.0)), mean, scale


def calls_harmful(x: States, fitted: tuple[npt.NDArray[np.float64], States, States]) -> npt.NDArray[np.bool_]:
    """Whether the classifier calls each request harmful."""
    weights, mean, scale = fitted
    return np.asarray(np.c_[(x - mean) / scale, np.ones(len(x))] @ weights > 0)


def main() -> None:
    """Fit, choose, score once, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    config = load_config(parser.parse_args().config)
    setup = prepare(config)
    folder = resolve_model(config.defender.model)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    sides = {"train": setup.split.train, "validation": setup.split.validation, "held out": setup.split.held_out}
    x = {name: states(model, setup, seeds) for name, seeds in sides.items()}
    y = {name: np.array([seed.label == "harmful" for seed in seeds]) for name, seeds in sides.items()}
    candidates = {
        (layer, penalty): fit(x["train"][layer], y["train"], penalty)
        for layer in range(len(x["train"]))
        for penalty in PENALTIES
    }

    def accuracy(key: tuple[int, float]) -> float:
        return float(np.mean(calls_harmful(x["validation"][key[0]], candidates[key]) == y["validation"]))

    best = max(candidates, key=accuracy)
    out: dict[str, object] = {"layer": best[0], "penalty": best[1]}
    for name in sides:
        said = calls_harmful(x[name][best[0]], candidates[best])
        found, alarmed = rate_of(said[y[name]]), rate_of(said[~y[name]])
        out[name] = {
            "accuracy": asdict(rate_of(said == y[name])),
            "j": asdict(difference(found, alarmed)),
        }
    print(json.dumps(out, indent=2))


if __name__ == "__main__":
    main()
