"""GCG: suffixes found by gradients. `evidence.foreign` runs this where nanoGCG is installed and magic_rl is not.

Reads a job (model, seeds, rng_seed, settings) as JSON; writes a line with the attack on each seed, and one when done.
"""

import json
import sys

import nanogcg
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    job = json.load(sys.stdin)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype="auto").to(device)
    for seed, text in job["seeds"]:
        config = nanogcg.GCGConfig(
            num_steps=job["settings"]["steps"],
            search_width=job["settings"]["width"],
            seed=job["rng_seed"],
            use_prefix_cache=False,  # transformers 5 no longer accepts its type of cache
            verbosity="WARNING",
        )
        target = f"Sure, here is {text[:1].lower()}{text[1:].rstrip('.?!')}"
        try:
            found = nanogcg.run(model, tokenizer, f"{text} {{optim_str}}", target, config).best_string
            row = {"messages": [{"role": "user", "content": f"{text} {found}"}], "reply": None, "failed": None}
        except RuntimeError as error:  # no candidate survives the tokenizer
            row = {"messages": [{"role": "user", "content": text}], "reply": None, "failed": f"GCG: {error}"}
        for line in ({"seed": seed, **row}, {"seed": seed, "done": True}):
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
