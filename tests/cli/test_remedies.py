"""Every remedy that an error names is known to the command line, and gets the facts that its words need."""

from __future__ import annotations

import ast
import string
from pathlib import Path

import magic_rl.errors
from magic_rl.cli.remedies import REMEDIES, in_words
from magic_rl.errors import StoreError, UserError


def raised() -> list[tuple[str, set[str]]]:
    """The remedy and the names of the facts of every error in the package that has one."""
    found = []
    for path in Path(magic_rl.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and len(node.exc.args) > 1:
                raised, remedy = ast.unparse(node.exc.func), node.exc.args[1]
                if isinstance(getattr(magic_rl.errors, raised, None), type):
                    assert isinstance(remedy, ast.Constant), ast.unparse(node)
                    found.append((str(remedy.value), {keyword.arg or "" for keyword in node.exc.keywords}))
    return found


def test_every_remedy_is_in_words_and_every_word_has_its_fact() -> None:
    assert {remedy for remedy, _ in raised()} <= set(REMEDIES)
    for remedy, facts in raised():
        wanted = {name for _, name, _, _ in string.Formatter().parse(REMEDIES[remedy]) if name}
        assert wanted <= facts, remedy


def test_an_error_in_words_says_what_was_wrong_and_what_helps() -> None:
    assert in_words(UserError("a: wrong")) == "a: wrong"
    assert (
        in_words(StoreError("a: unfinished", "resume", run="a"))
        == "a: unfinished; `magic-rl resume a` continues training"
    )
