"""What an evaluation measures: a run as it is, or with another judge, seeds, defender, attackers or settings.

Such an evaluation never overwrites the run's own: it has a folder in `evaluations`, named by what was replaced and by
a digest of the replacements, so that the same command finds it again.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from magic_rl.config import Config, dump_config, load_config
from magic_rl.data.overlap import SeedFinder
from magic_rl.data.seeds import SeedSet
from magic_rl.errors import ConfigError, DataError, StoreError
from magic_rl.evaluation.result import OTHERS, Measured, measured
from magic_rl.runs.inputs import compare_settings, digest
from magic_rl.runs.seeds import read_sources, split_of
from magic_rl.runs.target import endpoint_of
from magic_rl.store.run import RunDirectory
from magic_rl.types import Seed


@dataclass(frozen=True, slots=True)
class Instead:
    """What replaces parts of the run; where a field is None or empty, the run's own part is used.

    Attributes:
        judge: Config file that names the judge.
        seeds: Sources of seeds, as `data.seeds` names them.
        defender: A model from outside the run: see `runs.target`.
        attackers: A run whose attackers are used.
        settings: `key=value` items, of settings that `config.CHANGEABLE` lists.
    """

    judge: Path | None = None
    seeds: str | None = None
    defender: str | None = None
    attackers: RunDirectory | None = None
    settings: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, str]:
        """The replacements in words, by kind."""
        said = {
            "judge": str(self.judge or ""),
            "seeds": self.seeds or "",
            "defender": self.defender or "",
            "attackers": self.attackers.path.resolve().name if self.attackers else "",
            "settings": ", ".join(self.settings),
        }
        return {kind: text for kind, text in said.items() if text}


OWN = Instead()


@dataclass(frozen=True, slots=True)
class Subject:
    """An evaluation to make."""

    run: RunDirectory  # whose defenders, split and prompts are used
    config: Config  # every setting
    instead: Instead
    out: RunDirectory  # where its files go: the run, or a folder in it
    measured: Measured  # what it measures
    seeds: SeedSet | None = None  # in place of the run's own


def subject_of(run: RunDirectory, instead: Instead = OWN) -> Subject:
    """What an evaluation measures, found before any model is loaded.

    Raises:
        UserError: If the run has saved no defenders, the other run has no attacker or other prompts, or a setting is
            unknown or may not change.
    """
    if not run.players("defender"):
        raise StoreError(f"{run.path}: no players saved yet", "resume", run=run.path)
    config = load_config(run.path / "config.toml", instead.settings)
    compare_settings(run, config)
    if instead.judge:
        config = config.model_copy(update={"judge": load_config(instead.judge).judge})
    if instead.attackers:
        config = with_attacker_of(run, instead.attackers, config)
    if instead == OWN:
        return Subject(run, config, instead, run, measured(run))
    told = instead.as_dict()
    endpoint = endpoint_of(instead.defender).model_dump(mode="json") if instead.defender else None
    seeds = read_sources(config.data.model_copy(update={"seeds": instead.seeds})) if instead.seeds else None
    texts = [(seed.text, seed.label) for seed in seeds.seeds] if seeds else []
    # The content of a file, or the model of a server, may change under the same name.
    lent = str(instead.attackers.path.resolve()) if instead.attackers else None  # runs of one name may be lent
    content = digest([told, config.judge.model_dump(mode="json"), endpoint, texts, lent])[:8]
    tree = tomllib.loads(dump_config(config))
    found = measured(run, attackers=instead.attackers, config=tree, instead={**told, "digest": content})
    out = RunDirectory(run.path / OTHERS / "-".join([*told, content]))
    return Subject(run, config, instead, out, found, seeds)


def with_attacker_of(run: RunDirectory, source: RunDirectory, config: Config) -> Config:
    """The settings of a run with the attacker of another run, and with its `game.turns`.

    Raises:
        UserError: If the other run has no attacker, or words its prompts differently.
    """
    if not source.players("attacker"):
        raise StoreError(f"{source.path}: has no attacker", "take another's attacker")
    given = load_config(source.path / "config.toml")
    if given.game.prompts != config.game.prompts:
        raise ConfigError(
            f"{source.path}: game.prompts is {given.game.prompts!r}, but {config.game.prompts!r} in {run.path}; "
            "take the attacker of a run with the same prompts"
        )
    # The attacker is separate, even if the run's own shared its parameters with the defender.
    own = {"rewrite": True, "shared_parameters": False, "turns": given.game.turns}
    return config.model_copy(update={"attacker": given.attacker, "game": config.game.model_copy(update=own)})


def check_untaught(source: Path, seeds: Iterable[Seed], training: Iterable[Seed]) -> None:
    """Check that another run's attacker was not trained on the seeds that are measured here.

    Args:
        source: The other run.
        seeds: The seeds to measure on.
        training: Seeds that this run was trained on; what they share with measured seeds does not count.

    Raises:
        DataError: If it was.
    """
    finder = SeedFinder([*seeds], [*training])
    if known := sum(finder.found_in([seed.text]) for seed in split_of(load_config(source / "config.toml").data).train):
        raise DataError(
            f"{source}: its attacker was trained on {known} seeds that are held out here; take the attacker of a "
            "run with the same split"
        )
