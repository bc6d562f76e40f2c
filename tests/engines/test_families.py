"""Each family's row of docs/FAMILIES.md, as it is found on a tiny model; and what players say in its template."""

from __future__ import annotations

import datetime
import json
import logging
import math
import re
from pathlib import Path

import pytest
import torch

from magic_rl.config import load_config
from magic_rl.engines.local.engine import LocalEngine
from magic_rl.engines.local.models import load_renderer
from magic_rl.engines.settings import EngineConfig
from magic_rl.errors import UserError
from magic_rl.runs.assembly import prepare
from magic_rl.runs.export import export_defender
from magic_rl.runs.modelcheck import check_models, describe
from magic_rl.runs.train import train
from magic_rl.text.chat import ChatRenderer
from magic_rl.text.think import parse_attack
from magic_rl.types import Message
from tests.runs.test_export import logits
from tests.runs.test_exported_folder import a_run_of
from tests.runs.test_train import Silent
from tests.support import ROOT
from tests.support.families import CHATS, family_folder, tokenizer_of

TABLE = ROOT / "docs" / "FAMILIES.md"
ASKED = [Message("system", "Be kind."), Message("user", "Hello there")]
TARGET = "<think>I ask kindly.</think><answer>How are you?</answer>"
DAY = datetime.date(2026, 2, 3)


@pytest.fixture(scope="module", params=CHATS)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def renderer(family: str, tmp_path_factory: pytest.TempPathFactory) -> ChatRenderer:
    folder = family_folder(family, tmp_path_factory.mktemp("family") / "model")
    return load_renderer(str(folder), EngineConfig(date=DAY))


def test_a_run_between_players_without_a_system_role_goes_to_its_end(tiny_config: Path, tmp_path: Path) -> None:
    model = family_folder("Gemma 2", tmp_path / "gemma")
    players = [f"{role}.model={json.dumps(str(model))}" for role in ("attacker", "defender")]
    config = load_config(tiny_config, [*players, 'defender.system_prompt="Be kind."'])
    assert train(config, tmp_path / "run", Silent()).is_complete
    assert load_config(tmp_path / "run" / "config.toml") == config  # the date included


@pytest.mark.parametrize(("name", "message"), [("enable_thinking", None), ("enable_thinkin", "no such variable")])
def test_template_variables_are_each_players_own(
    tiny_config: Path, tmp_path: Path, name: str, message: str | None
) -> None:
    model = json.dumps(str(family_folder("Qwen3", tmp_path / "qwen3")))
    settings = [f"attacker.model={model}", f"defender.model={model}", f"attacker.chat_template_kwargs.{name}=false"]
    config = load_config(tiny_config, settings)
    if message:
        with pytest.raises(UserError, match=rf"^attacker\.chat_template_kwargs\.{name}: [^\n]*{message}"):
            prepare(config)
        return
    ends = {role: prepare(config).player(role).renderer.prompt(ASKED)[-5:] for role in ("attacker", "defender")}
    assert [words("Qwen3", ids).count("</think>") for ids in ends.values()] == [1, 0]


def words(family: str, ids: object) -> list[str]:
    return list(tokenizer_of(family).convert_ids_to_tokens(list(ids)))  # type: ignore[call-overload]


def test_a_familys_row_is_what_a_tiny_model_shows(family: str, tmp_path: Path, tiny_config: Path) -> None:
    """`pytest tests/engines/test_families.py -k row --log-cli-level=INFO` prints the table."""
    model = family_folder(family, tmp_path / "model", dtype=torch.bfloat16)
    run = a_run_of(tmp_path, tiny_config, model)
    settings = load_config(run.path / "config.toml", ["engine.dtype=bfloat16"])
    (found,) = check_models(settings)
    assert not found.problems
    template = found.template
    assert template
    assert template.turns
    path = LocalEngine(model, settings.defender.lora, settings.engine).path
    out = export_defender(run, tmp_path / "out", form="float32")
    one, two = (logits(*each).double().log_softmax(-1) for each in ((out,), (model, run.player("defender", 2))))
    numbers = {"parity": path.parity, "own": path.own, "reloaded": (one - two).abs().max().item()}
    thoughts = template.thoughts if template.thoughts == "none" else re.sub("^[^,]+", r"`\g<0>`", template.thoughts)
    stops = " ".join(f"`{stop}`" for stop in sorted(template.stops)).replace("|", "\\|")
    cells = [family, template.system, template.date, thoughts, stops, path.kind]
    row = [*cells, *("–" if math.isnan(number) else f"{number:.2g}" for number in numbers.values())]
    logging.getLogger(__name__).info("| %s |", " | ".join(row))
    (documented,) = (
        [cell.replace("¦", "\\|") for cell in re.split(r" *\| *", line.replace("\\|", "¦"))[1:-1]]
        for line in TABLE.read_text().split("\n")
        if line.startswith(f"| {family} |")
    )
    assert documented[: len(cells)] == cells
    assert path.kind == "shared" or path.reason == found.unshared
    assert not path.parity > 2 * path.own + 1e-3
    assert numbers["reloaded"] < 1e-3
    for said, number in zip(documented[len(cells) :], numbers.values(), strict=True):
        assert math.isnan(number) if said == "–" else float(said) < 4 * number + 1e-3  # rounding differs elsewhere


def test_what_a_check_says_of_a_template_is_in_its_prompts(family: str, renderer: ChatRenderer) -> None:
    template, prompt = describe(renderer), renderer.text(ASKED)
    alone = tokenizer_of(family).decode(renderer.prompt(ASKED[1:]))
    assert ("2026" in alone) == (template.date == "the run's date")
    assert prompt.rstrip().endswith("<think>") == template.thoughts.endswith("opened by the template")
    assert sorted(words(family, template.stops.values())) == sorted(template.stops)
    assert set(template.stops) <= set(template.control)


def test_a_system_prompt_is_read_once_by_every_template(family: str, renderer: ChatRenderer) -> None:
    assert renderer.text(ASKED).count("Be kind.") == 1
    assert renderer.text(ASKED).index("Be kind.") < renderer.text(ASKED).index("Hello there")


def test_a_supervised_attack_is_what_the_prompt_leaves_to_say(family: str, renderer: ChatRenderer) -> None:
    prompt, target = renderer.prompt(ASKED), renderer.completion(TARGET, tagged=True)
    parsed = parse_attack(renderer.decode(target))
    assert (parsed.thinking, parsed.answer, parsed.well_formed) == ("I ask kindly.", "How are you?", True)
    spelled = words(family, prompt + target)
    if "<think>" in tokenizer_of(family).get_added_vocab():
        assert spelled.count("<think>") == spelled.count("</think>") == 1
    assert target[-1] in renderer.stop_ids
    assert tokenizer_of(family).decode(prompt + target).count("<think>") == 1


def test_a_supervised_reply_follows_the_prompt_as_in_the_template(family: str, renderer: ChatRenderer) -> None:
    said = [*ASKED[1:], Message("assistant", "I am fine.")]
    sequence = tokenizer_of(family).decode(renderer.prompt(ASKED[1:]) + renderer.completion("I am fine."))
    whole = tokenizer_of(family).apply_chat_template(
        [{"role": m.role, "content": m.content} for m in said], chat_template=renderer.chat_template, tokenize=False
    )
    if family == "DeepSeek distill":  # its template prints no earlier thoughts, not even that there was one
        whole = whole.replace("I am fine.", "<think>\n\n</think>\n\nI am fine.")
    if family == "GLM-4":  # the mark of the next turn ends one
        whole += "<|user|>"
    assert whole.startswith(sequence)
    assert renderer.spoken(renderer.completion("I am fine.")).reply == "I am fine."


def test_a_familys_own_thoughts_are_no_part_of_its_reply(family: str, renderer: ChatRenderer) -> None:
    marks = {"Granite": ("Here is my thought process:", "Here is my response:")}.get(family, ("<think>", "</think>"))
    opened = renderer.text(ASKED).rstrip().endswith("<think>")
    said = f"{'' if opened else marks[0]} It asks. {marks[1]} I am fine."
    spoken = renderer.spoken(tokenizer_of(family).encode(said, add_special_tokens=False))
    if renderer.marks is None:
        assert spoken.reply == said
    else:
        assert (spoken.thinking, spoken.reply, spoken.ended) == ("It asks.", "I am fine.", True)
        cut = renderer.spoken(tokenizer_of(family).encode(said.partition(marks[1])[0], add_special_tokens=False))
        assert (cut.reply, cut.ended) == ("", False)
