"""What helps against an error, in words of the command line: errors carry facts, commands and flags are added here."""

from __future__ import annotations

from collections.abc import Mapping

from magic_rl.errors import UserError

_INSTALL = "`pip install 'magic-rl[{extra}]'` adds it (in a checkout with `-c constraints.txt`)"

REMEDIES = {
    "attack again": "`magic-rl attack {run} --again` replaces them",
    "choose steps": "say how many with --steps",
    "take another's attacker": "take that of another run with --attacker-from OTHER_RUN",
    "resume": "`magic-rl resume {run}` continues training",
    "resume or elsewhere": "continue with `magic-rl resume {run}`, or choose another directory",
    "elsewhere": "choose another directory",
    "fewer processes": "lower engine.processes",
    "do not recompute": "leave engine.recompute_above out",
    "lessons of your own": "give defender.sft.examples of your own, or set defender.sft.steps to 0",
    "raise limit": "raise it, as in `magic-rl resume RUN --set {role}.sampling.{limit}=N`",
    "smaller step size": "train again with a smaller {role}.optimiser.lr (or {role}.sft.lr), or with "
    "learning.kl_coef above 0",
    "write the pool again": "take them out, or write the pool again by `magic-rl pool build --config` with this config",
    "train a study": "`magic-rl study CONFIG --out {folder}` trains some",
    "export the adapter": "`magic-rl export --adapter` needs none",
    "adapter or without the layer": "leave {layer} out of lora.target_modules, or export with --adapter",
    "adapter and the words": "export the adapter (--adapter), and give the system prompt and the words around a "
    "request yourself",
    "add a teaching preset": "--attack-steps needs an attacker: add a preset that teaches one to --presets, such as "
    "magic, or attack it with one by `magic-rl attack {run} --attacker-from RUN`",
    "same command": "repeat the first command to continue, or choose another --out",
    "allow abstentions": "or raise judge.max_abstained",
    "server: start it": "is the server running, and is {place}.timeout long enough for it?",
    "server: follow it": "put the address that it names into {place}.url",
    "server: set the key": "set {place}.api_key_env to the environment variable that holds the key",
    "server: pay": "look at the account of the key in {place}.api_key_env",
    "server: check the key": "check the key in {place}.api_key_env and what it may use",
    "server: check the name": "check {place}.model, and that {place}.url ends in /v1",
    "server: limit calls": "leave {place}.max_total_tokens out, and limit {place}.max_calls in its place",
    "list all": "`--all` lists them",
    "name columns": "name yours, as in `--set data.text_column=prompt --set data.label_column=class`",
    "skip values": "`--skip VALUE` leaves out a value that is no answer",
    "repeat": "repeat the command to continue",
    "any count": "`--any-count` measures the rows that are there",
    "server back": "start it again on the same database and checkpoints, then `magic-rl resume RUN`",
    "name vllm's python": "name the Python of its environment in engine.vllm.python, or servers that run already in "
    "engine.vllm.urls",
    "adapters": "the server needs --enable-lora, --max-lora-rank of lora.rank or more, "
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 in its environment, and to see engine.vllm.folder under the same path",
    "server gone": "once it is back, `magic-rl resume` goes on; engine.vllm.patience says how long to wait for it",
    "more adapters": "raise its --max-cpu-loras",
    "same base": "serve the same folder in the same --dtype",
    "fewer layers": "take a newer vLLM, or only layers that it adapts into lora.target_modules",
    "fetch the model": "`magic-rl models pull {model}` fetches it",
    "a server for each": "name a server for each base model in engine.vllm.urls",
    "same attack steps": "use the same --attack-steps for both",
    "serve: set a key": "give it a key by --api-key-env, or leave --host out",
    "serve: another port": "choose another by --port",
    "serve: install": f"{_INSTALL.format(extra='serve')}, or take --server vllm",
    "serve: name vllm": "install vLLM in an environment of its own, and name its command by --vllm",
    "install": _INSTALL,
    "name a Python": "if {package} is not installed there, name a Python that has it by --{package}",
    "name an attacker": "name a run that has one with --attacker",
    "name a writer": "name it by --set attacker.writer.url=URL and --set attacker.writer.model=NAME",
    "serve it first": "`magic-rl serve {target}` gives it one, to be named in the place of {target}",
}


def in_words(error: UserError, typed: Mapping[str, str] = {}) -> str:
    """What was wrong, and what helps; a setting is called as it was given. Args: typed: As `options.typed` tells."""
    text, key = str(error), str(error).partition(" ")[0].rstrip(":")
    if error.facts.get("override"):
        text = f"{typed.get(key, f'--set {key}')}{text.removeprefix(key)}"
    remedy = REMEDIES[error.remedy].format(**error.facts) if error.remedy else ""
    return f"{text}; {remedy}" if remedy else text
