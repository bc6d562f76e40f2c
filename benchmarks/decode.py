"""Times sampling with this engine, transformers' continuous batching and vLLM, on the same requests in one run.

    python benchmarks/decode.py [--vllm ~/vllm/bin/python] [--processes 2] [--model default] [--repeats 3] [--json]

The requests are W1's prompts of 225 tokens with completions of exactly 48 tokens at temperature 1: one completion of
one prompt, 8 of one, and 8 of each of 8; in bfloat16 or, if the machine has no bfloat16 products, in float32. Each
sampler runs in its own process; one-time preparation and a first request of each size are not counted. vLLM needs its
own environment, because it pins its own torch.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

NEW, PROMPT = 48, 225  # tokens
SIZES = ((1, 1), (1, 8), (8, 8))  # prompts, and completions of each

Prompts = list[list[int]]


def prompts(count: int, number: int) -> Prompts:
    """Prompts of random ids, the same for all samplers; prompts with different numbers differ."""
    import random

    rng = random.Random(number)
    return [[rng.randrange(100, 40_000) for _ in range(PROMPT)] for _ in range(count)]


def seconds(sample: Callable[[Prompts, int], int], repeats: int) -> dict[str, float]:
    """Median seconds over repeats, by number of rows. Args: sample: Returns how many tokens it has sampled."""
    found = {}
    for size, (count, each) in enumerate(SIZES):
        times = []
        for number in range(repeats + 1):
            asked = prompts(count, 100 * size + number)
            began = time.perf_counter()
            sampled = sample(asked, each)
            times.append(time.perf_counter() - began)
            if sampled != count * each * NEW:
                raise SystemExit(f"sampled {sampled} tokens where {count * each * NEW} were asked for")
        found[str(count * each)] = statistics.median(times[1:])
    return found


def ours(folder: str, dtype: str, processes: int, repeats: int) -> dict[str, float]:
    """This engine, with an adapter, as a player has one, and the log-probability of each token."""
    from pathlib import Path

    from magic_rl.engines.local.engine import LocalEngine
    from magic_rl.engines.settings import EngineConfig
    from magic_rl.types import SamplingParams

    settings = EngineConfig.model_validate({"device": "cpu", "dtype": dtype, "processes": processes})
    policy = LocalEngine(Path(folder), config=settings).new_policy("decode")
    params = SamplingParams(NEW, ignore_stop=True)

    def sample(asked: Prompts, each: int) -> int:
        return sum(len(s.tokens) for g in policy.sample([tuple(p) for p in asked], each, params, 0) for s in g)

    return seconds(sample, repeats)


def transformers(folder: str, dtype: str, repeats: int) -> dict[str, float]:
    """transformers, without an adapter or log-probabilities."""
    import torch
    from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    rows = max(count * each for count, each in SIZES)
    batching = ContinuousBatchingConfig(num_blocks=rows * 2, page_size=256, max_batch_tokens=2048)

    def sample(asked: Prompts, each: int) -> int:
        settings = GenerationConfig(max_new_tokens=NEW, do_sample=True, eos_token_id=-1, num_return_sequences=each)
        done = model.generate_batch(asked, generation_config=settings, continuous_batching_config=batching)
        return sum(len(output.generated_tokens) for output in done.values())

    return seconds(sample, repeats)


def vllm(folder: str, dtype: str, repeats: int) -> dict[str, float]:
    """vLLM, without an adapter; with the log-probability of each token."""
    from vllm import LLM, SamplingParams

    model = LLM(folder, dtype=dtype, max_model_len=512, max_num_seqs=64, generation_config="vllm", seed=0)

    def sample(asked: Prompts, each: int) -> int:
        params = SamplingParams(n=each, temperature=1.0, max_tokens=NEW, ignore_eos=True, logprobs=0)
        outputs = model.generate([{"prompt_token_ids": ids} for ids in asked], params, use_tqdm=False)
        return sum(len(one.token_ids) for output in outputs for one in output.outputs)

    return seconds(sample, repeats)


def in_subprocess(python: str, name: str, given: argparse.Namespace, folder: str, dtype: str) -> dict[str, float]:
    """The timings of a sampler, measured in its own process."""
    command = [python, __file__, "--only", name, "--model", folder, "--dtype", dtype]
    command += ["--repeats", str(given.repeats), "--processes", str(given.processes)]
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env={**environment, **os.environ})
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def main() -> None:
    """Print seconds and tokens per second of each sampler, and its time as a multiple of this engine's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="default")
    parser.add_argument("--vllm", metavar="PYTHON", help="of an environment that has vLLM")
    parser.add_argument("--processes", type=int, default=2, help="of this engine")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", choices=("ours", "transformers", "vllm"), help=argparse.SUPPRESS)
    parser.add_argument("--dtype", default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only == "ours":
        print(json.dumps(ours(given.model, given.dtype, given.processes, given.repeats)))
        return
    if given.only:
        sampler = {"transformers": transformers, "vllm": vllm}[given.only]
        print(json.dumps(sampler(given.model, given.dtype, given.repeats)))
        return
    import torch

    from magic_rl.engines.local.engine import dtype_of
    from magic_rl.engines.local.models import resolve_model

    folder = str(resolve_model(given.model))
    dtype = str(dtype_of("auto", torch.device("cpu"))).removeprefix("torch.")
    pythons = {"ours": sys.executable, "transformers": sys.executable}
    if given.vllm:
        pythons["vllm"] = given.vllm
    found = {name: in_subprocess(python, name, given, folder, dtype) for name, python in pythons.items()}
    if given.json:
        print(json.dumps({"dtype": dtype, "processes": given.processes, "seconds": found}, indent=2))
        return
    for rows in found["ours"]:
        for name, times in found.items():
            rate, ratio = int(rows) * NEW / times[rows], times[rows] / found["ours"][rows]
            print(f"{rows:>3} rows, {name:13} {times[rows]:6.2f} s {rate:6.0f} tokens/s  {ratio:4.1f} times our time")


if __name__ == "__main__":
    main()
