"""Claims about the config tree: what it refuses, how it names what it refuses, and that it reads back what it wrote."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magic_rl.cli.options import preset_overrides
from magic_rl.config import PRESETS, Config, PresetName, differences, dump_config, load_config
from magic_rl.errors import UserError
from magic_rl.prompts import load_prompts
from tests.support import ROOT

Flat = dict[str, Any]


def flat(tree: dict[str, Any], prefix: str = "") -> Flat:
    """A tree's leaves by dotted path."""
    out: Flat = {}
    for key, value in tree.items():
        out |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return out


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (
            ["judge.endpoint.model=m", "judge.endpoint.url=http://localhost/v1"],
            "judge: kind is 'rules', which asks nobody",
        ),
        (["judge.endpoint.url=http://localhost/v1"], "judge: kind is 'rules', which asks nobody"),
        (
            ['judge.kind="qwen3guard"', "judge.endpoint.model=m", 'judge.members=[{kind="rules"}]'],
            "judge: kind 'qwen3guard' stands beside members",
        ),
        (["judge.rule=strictest"], "there are no members"),
        (["judge.kind=llama-guard", "judge.endpoint.model=m"], "judge: no judge here labels refusals"),
        (['judge.members=[{kind="shieldgemma", endpoint={model="m"}}]'], "judge: no judge here labels refusals"),
        (['judge.members=[{kind="rules", endpoint={model="m"}}]'], "judge.members.0: kind is 'rules'"),
        (["judge.threshold=0.7"], "threshold is for kind 'llm'"),
        (["attacker.system_prompt=Hi."], "attacker.system_prompt has no effect"),
    ],
)
def test_settings_that_would_drop_each_other_are_one_line(overrides: list[str], complaint: str) -> None:
    with pytest.raises(UserError, match=re.escape(complaint)):
        load_config(None, overrides)


@pytest.mark.parametrize(("one", "other"), [("", "false"), ("true", "false"), ("false", "")])
def test_a_template_variable_that_is_added_or_dropped_is_a_difference(one: str, other: str) -> None:
    key = "defender.chat_template_kwargs"
    trees = [
        load_config(None, [f"{key}.enable_thinking={v}"] if v else []).model_dump(mode="json") for v in (one, other)
    ]
    assert differences(*trees).keys() == {key}


@pytest.mark.parametrize("name", ["", "brief", "paper"])
def test_prompts_that_are_built_in_are_never_a_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x" / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "x")
    assert load_config(None, [f"game.prompts={json.dumps(name)}"]).game.prompts == name


def test_presets_differ_in_what_their_names_say() -> None:
    dumped = {name: load_config(None, [f"preset={name}"]).model_dump(exclude={"preset"}) for name in PRESETS}
    assert all(one == other or dumped[one] != dumped[other] for one in dumped for other in dumped)
    assert load_config().attacker.sft.steps > 0 == load_config(None, ["preset=magic-base"]).attacker.sft.steps


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("sede=1", "sede"),
        ("game.turn=3", "game.turn"),
        ("game.schedule.steps=3", "game.schedule.steps"),
        ("attacker.lora.rang=3", "attacker.lora.rang"),
    ],
)
def test_an_unknown_key_is_refused_by_its_path_with_the_known_ones(override: str, key: str) -> None:
    with pytest.raises(UserError, match=rf"{key}: unknown key \(known here: \w") as caught:
        load_config(None, [override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("learning.group=1", "learning.group"),
        ("learning.clip_low=0", "learning.clip_low"),
        ("attacker.sampling.temperature=0", "attacker.sampling.temperature"),
        ("defender.optimiser.lr=-1", "defender.optimiser.lr"),
        ("defender.optimiser.lr=fast", "defender.optimiser.lr"),
        ("judge.max_abstained=1.5", "judge.max_abstained"),
        ("judge.kind=oracle", "judge.kind"),
        ("store.keep=1", "store.keep"),
        ("seed=-1", "seed"),
        ("game.schedule.rounds=2.5", "game.schedule.rounds"),
        ("game=3", "game"),
    ],
)
def test_an_impossible_value_is_refused_by_its_path(override: str, key: str) -> None:
    with pytest.raises(UserError, match=rf"^--set: {key}: ") as caught:
        load_config(None, [override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:abc/v1",
        "http://localhost:99999/v1",
        "http://localhost:0/v1",
        "http://localhost:-1/v1",
        "http://[::1",
        "http://local host/v1",
        "http://localhost\\n/v1",
        "localhost:8000/v1",
    ],
)
def test_an_address_that_cannot_be_called_is_refused_by_its_path(url: str) -> None:
    with pytest.raises(
        UserError, match=r"^--set: judge\.endpoint: url must be like http://localhost:8000/v1"
    ) as caught:
        load_config(None, [f'judge.endpoint.url="{url}"'])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("url", ["", "https://api.test/v1", "http://[::1]:8000/v1", "http://127.0.0.1:65535/v1/"])
def test_an_address_that_can_be_called_is_taken(url: str) -> None:
    assert load_config(None, [f'attacker.writer.url="{url}"']).attacker.writer.url == url


@pytest.mark.parametrize(
    "overrides",
    [
        ["game.schedule.defender_steps=0", "game.schedule.attacker_steps=0"],
        ["game.schedule.kind=metric", "game.schedule.low=0.9", "game.schedule.high=0.8"],
        ["game.rewrite=false"],
        ["game.shared_parameters=true", "attacker.model=somebody/else"],
    ],
)
def test_settings_that_contradict_each_other_are_refused(overrides: list[str]) -> None:
    with pytest.raises(UserError):
        load_config(None, overrides)


def test_infinite_and_undefined_numbers_are_refused() -> None:
    for value in ("inf", "nan"):
        with pytest.raises(UserError, match=r"attacker\.optimiser\.lr"):
            load_config(None, [f"attacker.optimiser.lr={value}"])


def test_the_file_wins_over_its_preset_and_an_override_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('preset = "defender-only"\nseed = 1\n[game.schedule]\nattacker_steps = 2\n')
    config = load_config(path, ["seed=7"])
    assert config.preset == "defender-only"
    assert config.game.schedule.attacker_steps == 2
    assert config.seed == 7


def test_an_override_takes_toml_or_a_bare_string() -> None:
    config = load_config(None, ["attacker.strategies=['slang', 'question']", "data.seeds=a b.csv", "game.turns=3"])
    assert config.attacker.strategies == ("slang", "question")
    assert config.data.seeds == "a b.csv"
    assert config.game.turns == 3


@pytest.mark.parametrize("others", [["game.turns=3"], ["game.rewrite=false", "game.schedule.attacker_steps=0"]])
def test_plain_openings_need_an_attacker_and_a_single_turn(others: list[str]) -> None:
    with pytest.raises(UserError, match=r"game\.plain_share needs an attacker"):
        load_config(None, ["game.plain_share=0.25", "attacker.sft.steps=0", *others])


@pytest.mark.parametrize("item", ["seed", "=1", "a..b=1", "a b=1", ""])
def test_an_override_that_is_no_assignment_is_refused(item: str) -> None:
    with pytest.raises(UserError, match="expected key=value"):
        load_config(None, [item])


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    for name, content, wrong in (
        ("missing.toml", None, "cannot be read"),
        ("broken.toml", b"seed = ", "not valid TOML"),
        ("latin.toml", b"# caf\xe9\n", "is not UTF-8"),
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name}.*: {wrong}"):
            load_config(tmp_path / name)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_differs_from_magic_by_its_settings_and_by_nothing_else(name: PresetName) -> None:
    base = flat(load_config().model_dump())
    chosen = flat(load_config(None, [f"preset={name}"]).model_dump())
    settings = flat(dict(PRESETS[name]))
    assert {key for key in base if base[key] != chosen[key]} <= {"preset", *settings}
    assert {key: chosen[key] for key in settings} == settings


PAPER = {
    "paper-qwen2.5-7b.toml": "Qwen/Qwen2.5-7B-Instruct",
    "paper-llama-3.1-8b.toml": "meta-llama/Llama-3.1-8B-Instruct",
    "paper-qwen3-8b.toml": "Qwen/Qwen3-8B",
}


@pytest.mark.parametrize("config", ["demo.toml", *PAPER])
@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_named_on_the_command_line_takes_effect_on_every_shipped_config(config: str, name: PresetName) -> None:
    chosen = flat(load_config(ROOT / "configs" / config, preset_overrides(name)).model_dump())
    assert chosen["preset"] == name
    assert {key: chosen[key] for key in flat(dict(PRESETS[name]))} == flat(dict(PRESETS[name]))


@pytest.mark.parametrize("name", PAPER)
def test_a_paper_config_has_the_papers_numbers_and_an_adapters_step(name: str) -> None:
    config = load_config(ROOT / "configs" / name)
    schedule, learning, rewards = config.game.schedule, config.learning, config.game.rewards
    assert (rewards.harm, rewards.refusal, rewards.format) == (1.0, 0.5, 0.5)
    assert (schedule.kind, schedule.defender_steps, schedule.attacker_steps) == ("ratio", 15, 15)
    assert schedule.rounds * (schedule.defender_steps + schedule.attacker_steps) == 300
    assert (learning.seeds_per_step, learning.group, learning.kl) == (64, 4, 0.0)
    assert (learning.clip_low, learning.clip_high) == (0.2, 0.2)
    for player in (config.attacker, config.defender):
        assert player.model == PAPER[name]
        assert player.optimiser.lr == pytest.approx(10 * 1e-6)  # LoRA's against that of all weights
        assert player.lora.targets == "all-linear"
        assert (player.sampling.temperature, player.sampling.top_p) == (1.0, 1.0)
        assert (player.sampling.max_prompt_tokens, player.sampling.max_tokens) == (8192, 6144)
    assert config.evaluation.temperature == 0.0
    assert config.evaluation.max_reply_tokens == 512
    assert config.defender.sft.steps == 0


@pytest.mark.parametrize("name", PAPER)
def test_a_paper_config_uses_no_option_beyond_the_paper(name: str) -> None:
    config = load_config(ROOT / "configs" / name)
    assert load_prompts(config.game.prompts).defender("Hi?") == "Question:\nHi?"
    learning, game = config.learning, config.game
    assert (learning.baseline, learning.scale_by_std, learning.epochs, learning.minibatches) == ("group", True, 1, 1)
    assert (learning.dynamic_sampling, learning.target.compliance) == (0, "off")
    assert (game.opponents, game.plain_share, config.data.validation_categories) == ("last", 0.0, ())
    rewards = game.rewards
    assert (rewards.label, rewards.quality, rewards.length, rewards.request_label) == (0.0, 0.0, 0.0, "seed")


def leaves() -> st.SearchStrategy[dict[str, Any]]:
    """Trees of settings that are allowed together, the texts among them hostile to a TOML writer."""
    text = st.text(st.characters(codec="utf-8"), max_size=30)
    positive = st.floats(1e-12, 1e6)
    return st.fixed_dictionaries(
        {},
        optional={
            "seed": st.integers(0, 2**62),
            "game": st.fixed_dictionaries({"turns": st.integers(1, 9), "prompts": text}),
            "attacker": st.fixed_dictionaries(
                {"strategies": st.lists(text, max_size=3), "optimiser": st.fixed_dictionaries({"lr": positive})}
            ),
            "defender": st.fixed_dictionaries({"system_prompt": text, "model": text}),
            "learning": st.fixed_dictionaries({"kl": st.floats(0, 1e3), "scale_by_std": st.booleans()}),
            "data": st.fixed_dictionaries({"harmful_values": st.lists(text, max_size=3)}),
        },
    )


@given(leaves())
def test_what_is_written_into_a_run_reads_back_as_the_same_tree(tmp_path_factory: Any, tree: dict[str, Any]) -> None:
    config = Config.model_validate(tree)
    path = tmp_path_factory.mktemp("config") / "config.toml"
    path.write_text(dump_config(config), encoding="utf-8")
    assert load_config(path) == config


@pytest.mark.parametrize("name", PRESETS)
def test_a_resolved_preset_reads_back_as_itself(tmp_path: Path, name: PresetName) -> None:
    config = load_config(None, [f"preset={name}"])
    path = tmp_path / "config.toml"
    path.write_text(dump_config(config), encoding="utf-8")
    assert load_config(path) == config
