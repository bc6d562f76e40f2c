"""Times W1 with this engine and with TRL's GRPOTrainer, one after the other in separate processes.

    python benchmarks/vs_trl.py [--model default] [--repeats 3] [--json]

Both train a LoRA of rank 16 on all linear layers of a model, in bfloat16 or, if the machine has no bfloat16 products,
in float32: 4 prompts of 225 tokens, 8 completions of exactly 48 tokens each, one optimiser step. Each process reports
its own peak memory. TRL runs with gradient checkpointing, its default, and without it if memory allows; time is
compared with the faster of the two, memory with the smaller.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import subprocess
import sys
import time
from typing import Any

from magic_rl.bench import W1


def ours(model: str, repeats: int) -> tuple[dict[str, float], str]:
    """Median seconds per step, peak memory and share of the floor of this engine, and the dtype it chose."""
    import torch

    command = [sys.executable, "-m", "magic_rl", "bench", "--quick", "--json"]
    command += ["--model", model, "--repeats", str(repeats)]
    if not torch.cuda.is_available():
        command += ["--set", "engine.device=cpu"]  # where TRL runs too
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    result = json.loads(printed)
    (timing,) = result["workloads"]
    figures = {"s": timing["step_s"], "peak_gb": timing["peak_gb"], "floor_share": timing["floor_share"]}
    return figures, result["dtype"]


def trl_in_subprocess(model: str, repeats: int, kind: str, dtype: str) -> dict[str, float] | None:
    """What `trl` returns, measured in a separate process; None if that was killed, as when memory runs out."""
    command = [sys.executable, __file__, "--only-trl", kind, "--dtype", dtype]
    command += ["--model", model, "--repeats", str(repeats)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode == -signal.SIGKILL:  # as the system does when memory runs out
        return None
    done.check_returncode()
    figures: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return figures


def reward(completions: list[str], **_: Any) -> list[float]:
    """Any number that differs within a group."""
    return [float(len(set(text)) % 7) for text in completions]


def trl(model: str, repeats: int, dtype: str, *, checkpointing: bool) -> dict[str, float]:
    """Median seconds per step and peak memory of TRL in this process."""
    import tempfile

    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from magic_rl.bench import peak_memory
    from magic_rl.engines.local.models import resolve_model

    folder = resolve_model(model)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompts = [f"{word} " * W1.prompt_tokens for word in ("red", "blue", "green", "black")]
    prompts = [tokenizer.decode(tokenizer(text)["input_ids"][: W1.prompt_tokens]) for text in prompts]
    assert all(len(tokenizer(text)["input_ids"]) == W1.prompt_tokens for text in prompts)

    class Clock(TrainerCallback):
        """Seconds of each step."""

        def __init__(self) -> None:
            self.began, self.seconds = 0.0, list[float]()

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.seconds.append(time.perf_counter() - self.began)

    clock = Clock()
    with tempfile.TemporaryDirectory() as out:
        trainer = GRPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)),
            reward_funcs=reward,
            args=GRPOConfig(
                output_dir=out,
                per_device_train_batch_size=W1.seeds * W1.group,
                num_generations=W1.group,
                max_completion_length=W1.new_tokens,
                generation_kwargs={"min_new_tokens": W1.new_tokens},
                max_steps=repeats + 1,
                bf16=dtype == "bfloat16",
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
    parser.add_argument("--model", default="default", help="'default', a hub id or a local folder")
    parser.add_argument("--repeats", type=int, default=3, help="timed steps of each, after one to warm up")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.add_argument("--only-trl", choices=["with", "without"], help=argparse.SUPPRESS)
    parser.add_argument("--dtype", default="bfloat16", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only_trl:
        print(json.dumps(trl(args.model, args.repeats, args.dtype, checkpointing=args.only_trl == "with")))
        return
    one, dtype = ours(args.model, args.repeats)
    others = []
    for kind in ("with", "without"):
        figures = trl_in_subprocess(args.model, args.repeats, kind, dtype)
        said = f"{figures['s']:.2f} s, {figures['peak_gb']:.1f} GB" if figures else "killed, as for want of memory"
        print(f"TRL in {dtype}, {kind} gradient checkpointing: {said}", file=sys.stderr)
        others += [figures] if figures else []
    if not others:
        raise SystemExit("TRL ran out of memory with and without gradient checkpointing: no ratio")
    other = {name: min(timing[name] for timing in others) for name in ("s", "peak_gb")}
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
    print(f"W1, medians of {args.repeats}   ours {one['s']:.2f} s, {one['peak_gb']:.1f} GB", end="   ")
    print(f"TRL {other['s']:.2f} s, {other['peak_gb']:.1f} GB   {result['speedup']:.1f} times faster", end=", ")
    print(f"{other['peak_gb'] / one['peak_gb']:.1f} times less memory, {one['floor_share']:.0%} of the floor")


if __name__ == "__main__":
    main()
