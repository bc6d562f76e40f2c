"""Settings of judges, and of models that only answer: those that judges ask, and the attack pool's writer."""

from __future__ import annotations

from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, NonNegativeInt, PositiveFloat, PositiveInt, ValidationInfo, model_validator

from magic_rl.plugins import is_plugin
from magic_rl.settings import Node, Place, unlike_default, whole_path

_BUILT_IN = ("rules", "qwen3guard", "wildguard", "llama-guard", "shieldgemma", "harmbench", "strongreject", "llm")
_SCORING = ("llm", "strongreject")
_Threshold = Annotated[
    float, Field(gt=0, le=1, description="llm, strongreject: score from which a harmful request counts as met")
]


def _judge(kind: str) -> str:
    if kind in (*_BUILT_IN, "panel") or is_plugin("judges", kind):
        return kind
    raise ValueError(f"{kind!r} is none of {', '.join(_BUILT_IN)}, and not a judge of your own (package.module:Name)")


JudgeKind = Annotated[str, AfterValidator(_judge)]
_Options = Annotated[
    dict[str, bool | int | float | str],
    Field(description="own kinds: what their class is called with", examples=[{"word": "lock"}]),
]


def _whole_if_here(model: str, info: ValidationInfo) -> str:
    return model if info.data.get("url") else whole_path(model)


class EndpointConfig(Node):
    """A model that only answers: behind an OpenAI-compatible server, or in this process."""

    url: str | None = Field(
        None,
        examples=["http://localhost:8000/v1"],
        description="of an OpenAI-compatible server, ending in /v1; without one the model runs in this process",
    )
    model: Annotated[str, AfterValidator(_whole_if_here)] = Field(
        min_length=1, examples=["NAME"], description="its name at the server; here a hub id or a local folder"
    )
    tokenizer: Place | None = Field(
        None,
        examples=["Qwen/Qwen3Guard-Gen-4B"],
        description="hub id or folder of a tokenizer whose chat template is rendered here, for servers that do not "
        "render the model's own (Ollama, llama.cpp without its jinja option)",
    )
    api_key_env: str | None = Field(
        None,
        pattern="^[A-Z_][A-Z0-9_]*$",
        examples=["OPENAI_API_KEY"],
        description="environment variable that holds the key; never the key itself",
    )
    concurrency: PositiveInt = Field(16, description="calls under way at once")
    timeout: PositiveFloat = Field(60.0, description="seconds for one call")
    total_timeout: PositiveFloat | None = Field(None, examples=[600.0], description="seconds for one batch of calls")
    attempts: PositiveInt = Field(5, description="tries of a call before it counts as failed")
    max_calls: PositiveInt | None = Field(None, examples=[10000], description="most calls of a process, with retries")
    max_total_tokens: PositiveInt | None = Field(None, examples=[1000000], description="most tokens of a process")
    per_minute: PositiveInt | None = Field(
        None, examples=[60], description="calls a minute, evenly spaced, with retries"
    )

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if self.url is None:
            if idle := [key for key in unlike_default(self) if key != "model"]:
                raise ValueError(f"{idle[0]} is for a model behind a server: name it in url, or leave {idle[0]} out")
            return self
        try:
            parts = urlsplit(self.url)
            sound = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:  # a port that is no number or too large, or half an IPv6 address
            sound = False
        if not sound or " " in self.url or not self.url.isprintable():
            raise ValueError("url must be like http://localhost:8000/v1, without spaces, its port at most 65535")
        if parts.username or parts.password or parts.query:
            raise ValueError("url must hold no key or password: it is written into runs; use api_key_env")
        return self


class JudgeMemberConfig(Node):
    """One judge and the model it asks."""

    kind: JudgeKind = "rules"
    endpoint: EndpointConfig | None = None
    threshold: _Threshold = 0.5
    options: _Options = Field({})

    @property
    def is_own(self) -> bool:
        """Whether the user brought it: a judge or, with an endpoint, the format of a guard."""
        return self.kind not in _BUILT_IN

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.kind == "panel":
            raise ValueError("a member of a panel is a single judge")
        self._single()
        return self

    def _single(self) -> None:
        """Raise ValueError for settings of a single judge that contradict each other."""
        if self.options and (not self.is_own or self.endpoint is not None):
            raise ValueError(f"options are for a judge of your own; kind {self.kind!r} takes none")
        if self.kind != "rules" and not self.is_own and self.endpoint is None:
            raise ValueError(f"kind {self.kind!r} asks a model: name it in endpoint.model")
        if self.kind == "rules" and self.endpoint is not None:
            raise ValueError("kind is 'rules', which asks nobody, but endpoint names a model; set kind to what it is")
        if self.kind not in _SCORING and not (self.is_own and self.endpoint) and self.threshold != 0.5:
            raise ValueError(f"threshold is for {' and '.join(_SCORING)}; kind {self.kind!r} gives labels, not scores")


class JudgeConfig(JudgeMemberConfig):
    """Who labels, and how many abstentions are tolerated."""

    kind: JudgeKind = Field(
        "rules",
        examples=["magic_rl.judges.rules:RulesJudge"],
        description=f"{', '.join(_BUILT_IN)}; 'panel': several, see members; or package.module:Name of your own",
    )
    endpoint: EndpointConfig | None = Field(None, description="the model that is asked")
    members: tuple[JudgeMemberConfig, ...] = Field(
        (), examples=[[{"kind": "rules"}]], description="panel: its judges, each with kind, endpoint and threshold"
    )
    rule: Literal["majority", "strictest"] = Field("majority", description="panel: how members come to one verdict")
    retries: NonNegativeInt = Field(1, description="how often an abstention is asked again")
    max_abstained: float = Field(0.05, ge=0, le=1, description="share of a step above which the run stops")

    @property
    def judges(self) -> tuple[JudgeMemberConfig, ...]:
        """Each judge that is asked: the members of a panel, or the only one."""
        return self.members if self.kind == "panel" else (self,)

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.kind != "panel":
            if self.members or self.rule != "majority":
                raise ValueError(f"members and rule are for kind 'panel'; kind {self.kind!r} is a single judge")
            self._single()
        elif not self.members or self.endpoint is not None or self.threshold != 0.5 or self.options:
            raise ValueError("kind is 'panel': name its judges in members, each with its own endpoint and threshold")
        return self
