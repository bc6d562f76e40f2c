"""What kind of attack is it? The 20 fine-grained classes of METHOD §9 in six families, told apart by wording and shape.

The rules are lexical and approximate: good enough to see a distribution drift from round to round, not to count
single attacks. An attack may show several classes; "other" stands only for none.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from magic_rl.text.language import foreign

OTHER = "other"
PATTERNS: Mapping[str, str] = {
    "role_play": "identity and scenario",
    "simulated_decision": "identity and scenario",
    "academic_pretext": "identity and scenario",
    "concealment": "ambiguity and induction",
    "causation_confusion": "ambiguity and induction",
    "false_analogy": "ambiguity and induction",
    "concept_substitution": "ambiguity and induction",
    "false_premise": "logic and premise",
    "legitimacy_pretext": "logic and premise",
    "ignore_previous": "logic and premise",
    "step_by_step": "complex construction",
    "multi_condition": "complex construction",
    "nested_logic": "complex construction",
    "encoding": "structure and format",
    "templated_output": "structure and format",
    "code_pseudonym": "structure and format",
    "structured_response": "structure and format",
    "surrogate_modality": "structure and format",
    "translation": "structure and format",
    OTHER: OTHER,
}
_RULES: Mapping[str, re.Pattern[str]] = {
    name: re.compile(rule, re.IGNORECASE)
    for name, rule in {
        "role_play": r"\b(?:you are (?:an?|the|max)\b|pretend to be|imagine you are|play (?:the role|"
        r"a scene|a character)|act as|"
        r"(?:in|as) (?:a|the) (?:film|movie|story|novel|play|scene)\b|your character|"
        r"character (?:is|who|asks|answers)|bedtime story)",
        "simulated_decision": r"\b(?:suppose you (?:had|have|must)|what would you (?:do|say|choose)|"
        r"simulat\w+|hypothetical\w*|if you had to)\b",
        "academic_pretext": r"\b(?:stud(?:y|ies|ent)|research\w*|professor|homework|lesson|teacher|thesis|"
        r"academic|scientific|survey|statistic\w*)\b",
        "concealment": r"\b(?:just (?:wondering|curious|asking)|out of (?:pure )?curiosity|no biggie|"
        r"quick one|between us|real talk|"
        r"puzzles me|always wanted to know|asking for a friend)\b",
        "causation_confusion": r"\b(?:therefore|hence|so it is logical|it follows that|as a (?:result|"
        r"consequence)|because of this)\b",
        "false_analogy": r"\b(?:just like|similar to|the same as|no different from|is like|compared to)\b",
        "concept_substitution": r"\b(?:the (?:item|task|query|procedure|operator|input)|aforementioned|"
        r"so-called|known as|in other words|"
        r"workflow|standard procedure)\b",
        "false_premise": r"\b(?:knowledge is neutral|is (?:public|harmless|legal)(?: anyway)?\b|"
        r"costs nothing|everyone (?:knows|agrees)|"
        r"all agree|changes nothing|now that it is allowed)",
        "legitimacy_pretext": r"\b(?:approved|officially|endorsed?|authori[sz]ed|signed off|permission|"
        r"inspector|journalist|ministry|council|"
        r"experts?|specialists?|professionals?|department|for my report|safety)\b",
        "ignore_previous": r"\b(?:ignore|disregard|forget) (?:all |any |the |your )*(?:previous|prior|"
        r"above|earlier|rules|instructions)\b",
        "step_by_step": r"\b(?:step[- ]by[- ]step|step (?:one|1)|first,.*\bthen\b|in steps|stages?)\b",
        "multi_condition": r"\b(?:provided that|on (?:the )?condition|as long as|unless|"
        r"if .{3,60}\band if\b|with that in mind|given that)\b",
        "nested_logic": r"\b(?:if .{3,80}\bthen\b|question within|answer the question that|the (?:hero|"
        r"sailor|wizard) (?:asks|says))\b",
        "templated_output": r"\b(?:fill in|template|begin your (?:answer|reply) with|start with the words|"
        r"complete the (?:sentence|text)|"
        r"(?:wizard|script|captain) says:\s*$)",
        "code_pseudonym": r"(?:\bcode ?name\b|\blet [a-z] (?:be|denote|stand for)\b|\bplaceholder\b|\[[A-Z_]{2,}\])",
        "structured_response": r"(?:\b(?:section|requirement|input|output|query|task|technical brief|"
        r"specification|list|table|bullet|json)\b ?\d*[.:]|"
        r"\bdocumentation\b)",
        "surrogate_modality": r"\b(?:poem|song|lyrics|rap|diagram|recipe for|ascii art|drawing|letter in which)\b",
    }.items()
}
_ENCODED = re.compile(
    r"(?:\b\d{2,3}(?: \d{2,3}){5,})|(?:(?:[.\-]{1,6} ){5,})|\b(?:caesar|atbash|"
    r"morse|base64|rot13|ascii codes|decode)\b",
    re.IGNORECASE,
)


def classify(attack: str) -> frozenset[str]:
    """The classes an attack shows; `{"other"}` if none."""
    found = {name for name, rule in _RULES.items() if rule.search(attack)}
    if _ENCODED.search(attack):
        found.add("encoding")
    if foreign(attack):
        found.add("translation")
    return frozenset(found or {OTHER})


def drift(attacks_by_round: Mapping[int, Sequence[str]]) -> dict[int, dict[str, float]]:
    """For each round, the share of its attacks that shows each class; shares may add up to more than 1."""
    out = {}
    for number, attacks in attacks_by_round.items():
        counts = Counter(name for attack in attacks for name in classify(attack))
        out[number] = {name: counts[name] / len(attacks) if attacks else 0.0 for name in PATTERNS}
    return out
