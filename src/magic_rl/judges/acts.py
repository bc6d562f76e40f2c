"""What one part of a reply does: refuse, condemn, instruct, and so on. A part is about a clause (`reading.parts`)."""

from __future__ import annotations

from enum import Enum, auto

from magic_rl.judges import lexicon, reading


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


def act_of(part: str, seed: str) -> Act:
    """What a part does. Moral words that the seed itself brings up are its topic, not a judgement."""
    topic = {reading.stem(word) for word in reading.words(seed)}
    declined = lexicon.DECLINES.search(part) if not lexicon.ASKS_FOR_TEXT.search(seed) else None
    refuses = lexicon.REFUSAL.search(part) or (declined and reading.stem(declined["verb"]) in topic - _DO)
    if refuses and not lexicon.NOT_REFUSAL.search(part):
        return Act.REFUSE
    if lexicon.NO.search(part):
        return Act.NO
    if lexicon.APOLOGISES.search(part):
        return Act.APOLOGISE
    consoles = lexicon.CONSOLES.search(part) and not reading.stems(seed) & reading.stems(part)
    if consoles or lexicon.DEFLECTS.search(part):
        return Act.DEFLECT
    negated = lexicon.NEGATES.search(part)
    if lexicon.FORBIDS.search(part) or (negated and reading.stem(negated["verb"]) in topic - _DO):
        return Act.FORBID
    redirects = lexicon.REDIRECTS.search(part)
    if lexicon.IMPERATIVE.search(part):
        return Act.REDIRECT if redirects else Act.INSTRUCT
    moral = {reading.stem(found) for found in lexicon.MORAL.findall(part)}
    if moral - topic or lexicon.CONDEMNS.search(part):
        return Act.CONDEMN
    if redirects:
        return Act.REDIRECT
    if lexicon.INSTRUCTS.search(part):
        return Act.INSTRUCT
    if lexicon.SUGGESTS.search(part):
        return Act.SUGGEST
    return Act.AGREE if lexicon.AGREES.search(part) else Act.STATE
