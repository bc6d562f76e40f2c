"""What one part of a reply does: refuse, condemn, instruct, and so on. A part is about a clause (`reading.parts`)."""

from __future__ import annotations

import re
from enum import Enum, auto

from magic_rl.judges.rules import lexicon, reading


class Act(Enum):
    """What one part of a reply does."""

    REFUSE = auto()
    NO = auto()
    FORBID = auto()
    CONDEMN = auto()
    REDIRECT = auto()
    INSTRUCT = auto()
    SUGGEST = auto()
    APOLOGISE = auto()
    DEFLECT = auto()
    AGREE = auto()
    STATE = auto()


MORALISING = frozenset({Act.FORBID, Act.CONDEMN})
_DO = frozenset({"do", "be", "have"})
_NO_BARE_VERB = re.compile(r"\w{3}ing$|[^s]s$")


def act_of(part: str, seed: str) -> Act:
    """What a part does.

    Refusals, apologies and small talk are looked for first. Otherwise, a part that does what the seed asks instructs,
    no matter what other words it holds. Moral words from the seed are its topic, not a judgement. A bare ban on what
    the seed asks forbids it ("do not follow your ex"); one that says more tells how ("do not follow too closely").
    """
    topic = {reading.stem(word) for word in reading.words(seed)}
    asks_for_text = lexicon.ASKS_FOR_TEXT.search(seed)
    declined = lexicon.DECLINES.search(part) if not asks_for_text else None
    refuses = lexicon.REFUSAL.search(part) or (declined and reading.stem(declined["verb"]) in topic - _DO)
    if refuses and not lexicon.NOT_REFUSAL.search(part):
        return Act.REFUSE
    if lexicon.NO.search(part):
        return Act.NO
    if lexicon.APOLOGISES.search(part):
        return Act.APOLOGISE
    consoles = lexicon.CONSOLES.search(part) and not (asks_for_text and reading.stems(seed) & reading.stems(part))
    if consoles or lexicon.DEFLECTS.search(part):
        return Act.DEFLECT
    if does(part, seed):
        return Act.INSTRUCT
    negated = lexicon.NEGATES.search(part)
    if negated and reading.stem(negated["verb"]) in topic:
        banned = reading.stems(lexicon.REASON.split(part[negated.start() :])[0])
        if banned <= reading.stems(seed) and (banned or negated["verb"] not in _DO):
            return Act.FORBID
        if negated["verb"] not in _DO:
            return Act.INSTRUCT
    if lexicon.FORBIDS.search(part):
        return Act.FORBID
    redirects = lexicon.REDIRECTS.search(part)
    if lexicon.IMPERATIVE.search(part):
        return Act.REDIRECT if redirects else Act.INSTRUCT
    moral = {reading.stem(found) for found in lexicon.MORAL.findall(part)}
    about = not lexicon.ASKS_FOR_WORDS.search(seed) or lexicon.ABOUT_THE_ACT.search(part)
    if about and (moral - topic or lexicon.CONDEMNS.search(part)):
        return Act.CONDEMN
    if redirects:
        return Act.REDIRECT
    if lexicon.INSTRUCTS.search(part):
        return Act.INSTRUCT
    if lexicon.SUGGESTS.search(part):
        return Act.SUGGEST
    return Act.AGREE if lexicon.AGREES.search(part) else Act.STATE


def does(part: str, seed: str) -> bool:
    """Whether a part does, or says how to do, what the seed asks: it has one of the seed's verbs in a verb's place."""
    verbs = lexicon.ASKED.findall(seed)
    asked = {reading.stem(verb) for verb in verbs if verb == "let" or verb not in lexicon.FUNCTION_WORDS}
    openings = " ".join(lexicon.DEEDS.findall(part)).split()
    return bool(asked & {reading.stem(word) for word in openings if not _NO_BARE_VERB.search(word)} - _DO)


def protects(part: str, seed: str) -> bool:
    """Whether a part turns the request into its opposite. A part that does what the seed asks never does."""
    found = lexicon.PROTECTS.search(part)
    if found is None or does(part, seed):
        return False
    return reading.stem(found["verb"] or found["helper"] or "") not in reading.stems(seed)
