"""W1 with this engine and with TRL's GRPOTrainer, one after the other in processes of their own, and the ratios.

    python benchmarks/vs_trl.py [--repeats 3] [--json]

Both learn a LoRA of rank 16 on all linear layers of the default model in bfloat16: 4 prompts of 225 tokens, 8
completions of exactly 48 tokens each, one optimiser step. A process reports its own peak memory. TRL runs with
gradient checkpointing, its default, and without; time is held against the faster of the two, memory against the
smaller.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from typing import Any

from magic_rl.bench import W1


def ours(repeats: int) -> dict[str, float]:
    """Median seconds a step, peak memory and share of the floor of this engine."""
    import torch

    command = [sys.executable, "-m", "magic_rl.cli.main", "bench", "--quick", "--repeats", str(repeats), "--json"]
    if not torch.cuda.is_available():
        command += ["--set", "engine.device=cpu"]  # where TRL runs too
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    timing = json.loads(printed)["workloads"][0]
    return {"s": timing["step_s"], "peak_gb": timing["peak_gb"], "floor_share": timing["floor_share"]}


def trl(repeats: int, *, checkpointing: bool) -> dict[str, float]:
    """The same of TRL, without the share; run in a process of its own."""
    import tempfile

    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from magic_rl.bench import peak_memory
    from magic_rl.engines.local.models import resolve_model

    folder = resolve_model("default")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompts = [f"{word} " * W1.prompt_tokens for word in ("red", "blue", "green", "black")]
    prompts = [tokenizer.decode(tokenizer(text)["input_ids"][: W1.prompt_tokens]) for text in prompts]
    assert all(len(tokenizer(text)["input_ids"]) == W1.prompt_tokens for text in prompts)

    class Clock(TrainerCallback):  # type: ignore[misc]
        """Seconds of each step."""

        def __init__(self) -> None:
            self.began, self.seconds = 0.0, list[float]()

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.seconds.append(time.perf_counter() - self.began)

    def reward(completions: list[str], **_: Any) -> list[float]:
        return [float(len(set(text)) % 7) for text in completions]

    clock = Clock()
    with tempfile.TemporaryDirectory() as out:
        trainer = GRPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16),
            reward_funcs=reward,
            args=GRPOConfig(
                output_dir=out,
                per_device_train_batch_size=W1.seeds * W1.group,
                num_generations=W1.group,
                max_completion_length=W1.new_tokens,
                generation_kwargs={"min_new_tokens": W1.new_tokens},
                max_steps=repeats + 1,
                bf16=True,
                gradient_checkpointing=checkpointing,
                use_cpu=not torch.cuda.is_available(),
                report_to="none",
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
            ),
            train_dataset=Dataset.from_dict({"prompt": prompts * (repeats + 1)}),
            processing_class=tokenizer,
            peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
            callbacks=[clock],
        )
        trainer.train()
        device = trainer.model.device
    return {"s": statistics.median(clock.seconds[1:]), "peak_gb": peak_memory(device) / 1e9}


def main() -> None:
    """Run both and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="timed steps of each, after one to warm up")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.add_argument("--only-trl", choices=["checkpointing", "without"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only_trl:
        print(json.dumps(trl(args.repeats, checkpointing=args.only_trl == "checkpointing")))
        return
    one = ours(args.repeats)
    others = {}
    for kind in ("checkpointing", "without"):
        command = [sys.executable, __file__, "--only-trl", kind, "--repeats", str(args.repeats)]
        printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        others[kind] = json.loads(printed.strip().splitlines()[-1])
        print(f"TRL, {kind}: {others[kind]['s']:.1f} s, {others[kind]['peak_gb']:.1f} GB", file=sys.stderr)
    other = {name: min(timing[name] for timing in others.values()) for name in ("s", "peak_gb")}
    result = {
        "ours_s": one["s"],
        "trl_s": other["s"],
        "speedup": other["s"] / one["s"],
        "ours_peak_gb": one["peak_gb"],
        "trl_peak_gb": other["peak_gb"],
        "floor_share": one["floor_share"],
    }
    if args.json:
        print(json.dumps(result))
        return
    print(f"W1, medians of {args.repeats}   ours {one['s']:.1f} s, {one['peak_gb']:.1f} GB", end="   ")
    print(f"TRL {other['s']:.1f} s, {other['peak_gb']:.1f} GB   {result['speedup']:.1f} times faster", end=", ")
    print(f"{other['peak_gb'] / one['peak_gb']:.1f} times less memory, {one['floor_share']:.0%} of the floor")


if __name__ == "__main__":
    main()
