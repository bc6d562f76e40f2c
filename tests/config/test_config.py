"""Claims about the config tree: what it refuses, how it names what it refuses, and that it reads back what it wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magic_rl.config import PRESETS, SHIPPED, Config, PresetName, differences, dump_config, load_config
from magic_rl.config.sections import AttackerConfig
from magic_rl.errors import ConfigError, UserError
from magic_rl.prompts import load_prompts

Flat = dict[str, Any]


def flat(tree: dict[str, Any], prefix: str = "") -> Flat:
    """A tree's leaves by dotted path."""
    out: Flat = {}
    for key, value in tree.items():
        out |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return out


@pytest.mark.parametrize(("one", "other"), [("", "false"), ("true", "false"), ("false", "")])
def test_a_template_variable_that_is_added_or_dropped_is_a_difference(one: str, other: str) -> None:
    key = "defender.chat_template_kwargs"
    trees = [
        load_config(None, [f"{key}.enable_thinking={v}"] if v else []).model_dump(mode="json") for v in (one, other)
    ]
    assert differences(*trees).keys() == {key}


@pytest.mark.parametrize("name", ["brief", "paper"])
def test_prompts_that_are_built_in_are_never_a_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    assert load_config(None, [f"game.prompts={name}"]).game.prompts == name


def test_presets_differ_in_what_their_names_say() -> None:
    dumped = {name: load_config(None, [f"preset={name}"]).model_dump(exclude={"preset"}) for name in PRESETS}
    assert all(one == other or dumped[one] != dumped[other] for one in dumped for other in dumped)
    assert load_config().attacker.sft.steps > 0 == load_config(None, ["preset=magic-base"]).attacker.sft.steps


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("seed=1", "seed: unknown key; did you mean rng_seed?"),
        ("game.turn=3", "game.turn: unknown key; did you mean game.turns?"),
        ("attacker.lora.rang=3", "attacker.lora.rang: unknown key; did you mean attacker.lora.rank"),
        ("attacker.optimser.lr=1", "attacker.optimser: unknown key; did you mean attacker.optimiser"),
        ("learning.lr=1", "learning.lr: unknown key; did you mean attacker.optimiser.lr or "),
        ("judge.zzz=3", "judge.zzz: unknown key; known here: kind, endpoint, "),
        ("learning.group_size=1", "learning.group_size: 1: must be greater than or equal to 2"),
        ("learning.clip_low=0", "learning.clip_low: 0: must be greater than 0"),
        ("defender.optimiser.lr=fast", "defender.optimiser.lr: 'fast': must be a number"),
        ("attacker.optimiser.lr=inf", "attacker.optimiser.lr: inf: must be a finite number"),
        ("attacker.optimiser.lr=nan", "attacker.optimiser.lr: nan: must be a finite number"),
        ("game.schedule.rounds=2.5", "game.schedule.rounds: 2.5: must be a whole number"),
        ("rng_seed=true", "rng_seed: true: must be a whole number"),
        ("engine.threads=false", "engine.threads: false: must be a whole number"),
        ("defender.optimiser.lr=true", "defender.optimiser.lr: true: must be a number"),
        ("learning.target.compliance=true", "learning.target.compliance: true: must be a number"),
        ("game=3", "game: 3: must be a table of settings"),
        ("judge.kind=oracle", "judge.kind: 'oracle' is none of rules, "),
        (
            "learning.target.compliance=2",
            "learning.target.compliance: 2: must be 'start' or be less than or equal to 1",
        ),
        ("attacker.strategies=slang", "attacker.strategies: 'slang': must be a list, such as [\"slang\"]"),
        ("attacker.writer.url=x", "attacker.writer.model: must be given"),
        ("judge.members=[{kind=3}]", "judge.members.0.kind: 3: must be text in quotes"),
    ],
)
def test_a_wrong_setting_is_refused_by_its_path_and_says_what_to_write(override: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, [override])
    assert str(caught.value).startswith(said)
    assert caught.value.facts["override"]
    assert "\n" not in str(caught.value)


NO_ATTACKER = "game.rewrite=false attacker.sft.steps=0 game.schedule.attacker_steps=0"


@pytest.mark.parametrize(
    ("idle", "beside"),
    [
        ("game.schedule.high=0.95", ""),
        ("game.schedule.low=0.5", ""),
        ("game.schedule.window=2", ""),
        ("game.schedule.low=0.5", "game.schedule.kind=metric game.schedule.attacker_steps=0"),
        ("game.schedule.high=0.95", "game.schedule.kind=metric game.schedule.defender_steps=0"),
        ("game.opponent_seeds=8", "game.opponents=uniform"),
        ("game.opponents=nash", "game.schedule.attacker_steps=0"),
        ("game.opponents=uniform", "game.shared_parameters=true"),
        ("game.rewards.length_free_tokens=9", ""),
        ("game.plain_share=0.5", "game.turns=2"),
        ("game.plain_share=0.5", "game.schedule.defender_steps=0"),
        *((item, NO_ATTACKER) for item in ("game.turns=2", "game.plain_share=0.5", "game.shared_parameters=true")),
        *((item, NO_ATTACKER) for item in ("game.rewards.label=1", "game.rewards.format=1", "attacker.batch_size=2")),
        *((item, NO_ATTACKER) for item in ("attacker.model=m", "attacker.lora.rank=8", "attacker.sampling.top_p=0.5")),
        *((item, NO_ATTACKER) for item in ("attacker.optimiser.lr=1e-3", "attacker.writer.model=m")),
        ("defender.optimiser.lr=1e-3", "game.schedule.defender_steps=0"),
        ("defender.batch_size=8", "game.schedule.defender_steps=0"),
        ("learning.target.compliance=0.9", "game.schedule.defender_steps=0"),
        ("learning.reference=base", ""),
        ("learning.dynamic_sampling=1", "learning.baseline=label"),
        ("attacker.pool=p.jsonl", "attacker.sft.steps=0"),
        ("attacker.pool=p.jsonl", "attacker.sft.examples=e.jsonl"),
        *((f"attacker.sft.{item}", "attacker.sft.steps=0") for item in ("lr=1", "batch_size=2", "warmup_steps=1")),
        *((f"defender.sft.{item}", "") for item in ("lr=1", "batch_size=2", "warmup_steps=1", "examples=e.jsonl")),
        ("judge.threshold=0.7", ""),
        ("judge.rule=strictest", ""),
        ('judge.members=[{kind="rules"}]', ""),
        ("store.answers=false", ""),
        ("judge.endpoint.model=m", ""),
        ("judge.endpoint.max_calls=3", "judge.kind=llm judge.endpoint.model=m"),
        ("judge.endpoint.tokenizer=t", "judge.kind=llm judge.endpoint.model=m"),
        ("judge.threshold=0.7", 'judge.kind=panel judge.members=[{kind="rules"}]'),
        *((f"engine.{item}", "engine.kind=tinker") for item in ("processes=2", "device=cpu", "dtype=float32")),
        *((f"engine.{item}", "engine.kind=tinker") for item in ("threads=2", "rows_per_batch=2")),
        ("engine.processes=2", "engine.device=cuda"),
        ("data.text_column=t", "data.seeds=xstest"),
        ("data.harmful_values=['1']", "data.seeds=harmbench,xstest:x.csv"),
        ("data.split=test", "data.seeds=seeds.csv"),
    ],
)
def test_a_setting_without_effect_is_refused_by_its_name(idle: str, beside: str) -> None:
    load_config(None, beside.split())  # valid without it
    with pytest.raises(ConfigError, match=idle.partition("=")[0].rpartition(".")[2]):
        load_config(None, [*beside.split(), idle])


def test_beside_a_server_a_model_in_this_process_is_computed_as_the_engine_says() -> None:
    beside = ["engine.kind=tinker", "engine.processes=2"]
    assert load_config(None, [*beside, "judge.kind=qwen3guard", "judge.endpoint.model=m"]).engine.processes == 2
    assert load_config(None, [*beside, "attacker.writer.model=m"]).engine.processes == 2
    with pytest.raises(ConfigError, match=r"engine\.processes has no effect"):
        load_config(None, [*beside, "judge.kind=qwen3guard", "judge.endpoint={model='m', url='http://localhost/v1'}"])


def test_what_an_override_leaves_without_effect_is_left_out_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("[attacker.sft]\nbatch_size = 2\n[learning]\nkl_coef = 0.1\nreference = 'base'\n")
    config = load_config(path, ["attacker.sft.steps=0", "learning.kl_coef=0"])
    assert (config.attacker.sft.batch_size, config.learning.reference) == (16, "start")
    assert load_config(path, ["preset=magic-base"]) == load_config(path, (), "magic-base")
    path.write_text("[data]\nseeds = 's.csv'\ntext_column = 'prompt'\n")
    assert load_config(path, ["data.seeds=xstest"]).data.text_column == "text"
    path.write_text("[learning]\nreference = 'base'\n")
    with pytest.raises(ConfigError, match=r"c\.toml: learning\.reference has no effect"):
        load_config(path, ["rng_seed=1"])


def test_the_one_who_set_a_thing_wrongly_is_blamed(tmp_path: Path) -> None:
    good, bad, odd = (tmp_path / name for name in ("good.toml", "bad.toml", "odd.toml"))
    good.write_text("[game]\nturns = 2\n")
    bad.write_text("[game]\nturns = 0\n")
    odd.write_text("[game]\nrewrite = false\n")
    for path, overrides, whose in (
        (good, ["game.turns=0"], True),
        (good, ["game.plain_share=0.5"], True),
        (good, ["attacker.writer.url=x"], True),
        (bad, [], False),
        (bad, ["game.plain_share=0.5"], False),
        (bad, ["rng_seed=-1"], True),
        (odd, ["rng_seed=1"], False),
    ):
        with pytest.raises(ConfigError) as caught:
            load_config(path, overrides)
        assert (caught.value.facts["override"], str(path) in str(caught.value)) == (whose, not whose), overrides


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
    with pytest.raises(UserError, match=r"^attacker\.writer: url must be like http://localhost:8000/v1") as caught:
        load_config(None, ["attacker.writer.model=m", f'attacker.writer.url="{url}"'])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("url", ["https://api.test/v1", "http://[::1]:8000/v1", "http://127.0.0.1:65535/v1/"])
def test_an_address_that_can_be_called_is_taken(url: str) -> None:
    writer = load_config(None, [f'attacker.writer={{model="m", url="{url}"}}']).attacker.writer
    assert writer is not None
    assert writer.url == url


def test_the_file_wins_over_its_preset_and_an_override_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('preset = "defender-only"\nrng_seed = 1\n[game.schedule]\nattacker_steps = 2\n')
    config = load_config(path, ["rng_seed=7"])
    assert config.preset == "defender-only"
    assert config.game.schedule.attacker_steps == 2
    assert config.rng_seed == 7


def test_an_override_takes_toml_or_a_bare_string() -> None:
    config = load_config(None, ["attacker.strategies=['slang', 'question']", "data.seeds=a b.csv", "game.turns=3"])
    assert config.attacker.strategies == ("slang", "question")
    assert config.data.seeds == "a b.csv"
    assert config.game.turns == 3


def test_none_takes_a_value_back(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('[attacker]\npool = "p.jsonl"\n[learning.target]\ncompliance = 0.5\n')
    config = load_config(path, ["attacker.pool=none", "learning.target=none"])
    assert (config.attacker.pool, config.learning.target) == (None, None)


@pytest.mark.parametrize("item", ["rng_seed", "=1", "a..b=1", "a b=1", ""])
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


@pytest.mark.parametrize("config", [None, *SHIPPED])
@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_wins_over_a_file_and_changes_its_own_settings_alone(config: str | None, name: PresetName) -> None:
    """Settings that have no effect with it are back at their defaults too."""
    file = Path(config) if config else None
    plain, default = flat(load_config(file).model_dump()), flat(Config().model_dump())
    chosen = flat(load_config(file, (), name).model_dump())
    settings = flat(dict(PRESETS[name])) | {"preset": name}
    assert {key: chosen[key] for key in settings} == settings
    others = {key for key in chosen.keys() - settings.keys() if chosen[key] != plain.get(key)}
    assert {key: chosen[key] for key in others} == {key: default[key] for key in others}
    idle = {"magic-base": {"attacker"}, "no-game": {"attacker", "game"}}.get(name, set())
    assert {key.partition(".")[0] for key in others} <= idle


def test_overrides_win_over_a_preset_unless_they_are_of_a_whole_study() -> None:
    setting = ["attacker.optimiser.lr=1e-3"]
    with pytest.raises(ConfigError, match=r"attacker\.optimiser\.lr has no effect: it needs game\.rewrite = true"):
        load_config(Path("demo"), setting, "no-game")
    assert load_config(Path("demo"), setting, "no-game", wins="preset").attacker == AttackerConfig(sft={"steps": 0})
    assert load_config(Path("demo"), setting, "magic", wins="preset").attacker.optimiser.lr == 1e-3


def test_a_config_says_what_differs_from_the_one_it_extends(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "low.toml").write_text('rng_seed = 1\n[attacker]\nbatch_size = 4\nstrategies = ["slang"]\n')
    (tmp_path / "below" / "high.toml").write_text('extends = "low.toml"\n[attacker]\nbatch_size = 8\n')
    path = tmp_path / "c.toml"
    path.write_text('extends = "below/high.toml"\n[attacker]\nstrategies = ["question"]\n')
    config = load_config(path, ["game.turns=2"])
    assert (config.rng_seed, config.attacker.batch_size, config.attacker.strategies) == (1, 8, ("question",))
    (tmp_path / "whole.toml").write_text(dump_config(config))
    assert "extends" not in dump_config(config)
    assert load_config(tmp_path / "whole.toml") == config


def test_what_a_config_leaves_without_effect_of_the_one_below_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('extends = "paper"\npreset = "no-game"\n')
    assert load_config(path) == load_config(Path("paper"), (), "no-game")
    path.write_text('extends = "paper"\npreset = "no-game"\n[attacker]\nbatch_size = 8\n')
    with pytest.raises(ConfigError, match=r"c\.toml: attacker\.batch_size has no effect"):
        load_config(path)


@pytest.mark.parametrize(
    ("extends", "said"),
    [
        ('"b.toml"', r"a\.toml: extends: leads back to this file"),
        ('"missing.toml"', r"missing\.toml: cannot be read"),
        ("3", r"b\.toml: extends: must be another file, or one of demo, paper"),
        ('""', r"b\.toml: extends: must be another file"),
        ('["paper"]', r"b\.toml: extends: must be another file"),
    ],
)
def test_a_config_that_extends_nothing_or_itself_is_one_line(extends: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('extends = "b.toml"\n')
    (tmp_path / "b.toml").write_text(f"extends = {extends.replace('b.toml', '../' + tmp_path.name + '/a.toml')}\n")
    with pytest.raises(UserError, match=said) as caught:
        load_config(tmp_path / "a.toml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("preset", "said"), [('"magik"', "'magik' is none of magic"), ('["magic"]', "is none of magic")]
)
def test_a_preset_that_does_not_exist_is_named(preset: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(f"preset = {preset}\n")
    with pytest.raises(ConfigError, match=rf"c\.toml: preset: .*{said}"):
        load_config(tmp_path / "c.toml")


PAPERS = {
    "paper": "Qwen/Qwen2.5-7B-Instruct",
    "paper-qwen2.5-7b": "Qwen/Qwen2.5-7B-Instruct",
    "paper-llama-3.1-8b": "meta-llama/Llama-3.1-8B-Instruct",
    "paper-qwen3-8b": "Qwen/Qwen3-8B",
}


@pytest.mark.parametrize("name", PAPERS)
def test_the_papers_configs_have_its_numbers_and_an_adapters_step(name: str) -> None:
    config = load_config(Path(name))
    schedule, learning, rewards = config.game.schedule, config.learning, config.game.rewards
    assert (rewards.harm, rewards.refusal, rewards.format) == (1.0, 0.5, 0.5)
    assert (schedule.kind, schedule.defender_steps, schedule.attacker_steps) == ("ratio", 15, 15)
    assert schedule.rounds * (schedule.defender_steps + schedule.attacker_steps) == 300
    assert (learning.group_size, learning.kl_coef) == (4, 0.0)
    assert (learning.clip_low, learning.clip_high) == (0.2, 0.2)
    for player in (config.attacker, config.defender):
        assert player.model == PAPERS[name]
        assert player.batch_size == 64
        assert player.optimiser.lr == pytest.approx(10 * 1e-6)  # LoRA's against that of all weights
        assert player.lora.target_modules == "all-linear"
        assert (player.sampling.temperature, player.sampling.top_p) == (1.0, 1.0)
        assert (player.sampling.max_prompt_tokens, player.sampling.max_tokens) == (8192, 6144)
    assert config.evaluation.temperature == 0.0
    assert config.evaluation.max_reply_tokens == 512
    assert config.defender.sft.steps == 0


@pytest.mark.parametrize("name", PAPERS)
def test_the_papers_configs_use_no_option_beyond_the_paper(name: str) -> None:
    config = load_config(Path(name))
    assert load_prompts(config.game.prompts).defender("Hi?") == "Question:\nHi?"
    learning, game = config.learning, config.game
    assert (learning.baseline, learning.scale_by_std, learning.epochs, learning.minibatches) == ("group", True, 1, 1)
    assert (learning.dynamic_sampling, learning.target) == (0, None)
    assert (game.opponents, game.plain_share, config.data.validation_categories) == ("last", 0.0, ())
    rewards = game.rewards
    assert (rewards.label, rewards.quality, rewards.length, rewards.request_label) == (0.0, 0.0, 0.0, "seed")


def leaves() -> st.SearchStrategy[dict[str, Any]]:
    """Valid trees of settings, with texts that are hostile to a TOML writer."""
    text = st.text(st.characters(codec="utf-8"), max_size=30)
    named = text.filter(lambda name: name and not Path(name).exists())
    positive = st.floats(1e-12, 1e6)
    return st.fixed_dictionaries(
        {},
        optional={
            "rng_seed": st.integers(0, 2**62),
            "game": st.fixed_dictionaries({"turns": st.integers(1, 9), "prompts": named}),
            "attacker": st.fixed_dictionaries(
                {"strategies": st.lists(text, max_size=3), "optimiser": st.fixed_dictionaries({"lr": positive})}
            ),
            "defender": st.fixed_dictionaries({"system_prompt": named, "model": named}),
            "learning": st.fixed_dictionaries({"kl_coef": st.floats(0, 1e3), "scale_by_std": st.booleans()}),
            "data": st.fixed_dictionaries({"held_out_categories": st.lists(text, max_size=3)}),
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
