"""A kind of judge other than in the extended config: settings that only fit that one are left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from magic_rl.config import load_config
from magic_rl.config.judge import JudgeConfig


@pytest.mark.parametrize("overrides", [(), ["judge.kind=rules"]])
def test_another_kind_of_judge_leaves_out_the_one_below(overrides: list[str], tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    own = "" if overrides else '[judge]\nkind = "rules"\n'
    path.write_text(f'extends = "paper-qwen2.5-7b"\n{own}')
    below, config = load_config(Path("paper-qwen2.5-7b")), load_config(path, overrides)
    assert below.judge.endpoint is not None
    assert config.judge == JudgeConfig()
    assert config.model_copy(update={"judge": below.judge}) == below


@pytest.mark.parametrize(
    ("overrides", "url", "model"),
    [
        (["judge.kind=llm", "judge.endpoint.url=http://x/v1", "judge.endpoint.model=m"], "http://x/v1", "m"),
        (["judge.endpoint.url=http://x/v1", "judge.endpoint.model=m", "judge.kind=llm"], "http://x/v1", "m"),
        (["judge.kind=qwen3guard", "judge.endpoint.url=http://x/v1"], "http://x/v1", "below"),
        (["judge.kind=qwen3guard"], "http://low/v1", "below"),
    ],
)
def test_an_endpoint_stays_with_its_kind_of_judge(overrides: list[str], url: str, model: str, tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(
        '[judge]\nkind = "qwen3guard"\nretries = 3\n'
        '[judge.endpoint]\nurl = "http://low/v1"\nmodel = "below"\nconcurrency = 2\n'
    )
    judge = load_config(path, overrides).judge
    assert judge.endpoint is not None
    assert (judge.endpoint.url, judge.endpoint.model, judge.retries) == (url, model, 3)
    assert judge.endpoint.concurrency == (2 if model == "below" else 16)
