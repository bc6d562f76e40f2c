"""Compares the estimates of `magic-rl plan` with step times that others have published.

    python benchmarks/published.py

Each entry gives what its source says and, where the source is silent, what is assumed. All of them train every weight,
so a backward pass costs as much as two forward passes; gradient checkpointing costs one more.
"""

from __future__ import annotations

from dataclasses import dataclass

from magic_rl.runs.arithmetic import Samplers, Samples, Shape, device, sampling_seconds, shape_of

QWEN35_9B = Shape(hidden=4096, layers=32, queries=4096, keys=1024, inner=12288, vocabulary=248320, tied=False)


@dataclass(frozen=True, slots=True)
class Published:
    """A published training step.

    Attributes:
        passes: Cost of learning in forward passes, including gradients, checkpointing, old and reference scores.
        learners: Devices that learn.
        seconds: As published.
        assumed: Assumptions where the source is silent.
    """

    name: str
    source: str
    shape: Shape
    gpu: str
    samples: Samples
    engines: int
    per_engine: int
    learners: int
    passes: int
    seconds: float
    assumed: str = ""
    eager: bool = False

    def estimated(self) -> float:
        """Seconds that our model estimates."""
        gpu, said = device(self.gpu), self.samples
        samplers = Samplers(gpu, self.engines, self.per_engine, 256, self.eager)
        tokens = said.rows * (said.prompt + said.mean)
        forward = self.shape.forward(tokens, (said.prompt + said.mean) / 2, said.tokens)
        learning = self.passes * forward / (self.learners * gpu.flops * gpu.learn)
        return sampling_seconds(said, self.shape, samplers) + learning


EASY_R1 = "https://github.com/hiyouga/EasyR1/blob/main/assets/baselines.md"
LENGTHS = "about 300 of a sample's 675 tokens are the reply; the source gives throughput alone"
PUBLISHED = (
    Published(
        "verl (EasyR1), Qwen2.5-VL-7B, 8 H100",
        EASY_R1,
        shape_of("Qwen/Qwen2.5-7B-Instruct"),
        "H100",
        Samples(prompts=512, prompt=375, rows=2560, mean=300, longest=1200),
        engines=4,
        per_engine=2,
        learners=8,
        passes=6,  # forward, backward (2), checkpointing; old and reference scores
        seconds=180,
        assumed=LENGTHS,
    ),
    Published(
        "verl (EasyR1), Qwen2.5-VL-7B, 8 L20",
        EASY_R1,
        shape_of("Qwen/Qwen2.5-7B-Instruct"),
        "L20",
        Samples(prompts=512, prompt=375, rows=2560, mean=368, longest=1472),
        engines=4,
        per_engine=2,
        learners=8,
        passes=6,
        seconds=580,
        assumed=LENGTHS.replace("300 of a sample's 675", "368 of a sample's 743"),
    ),
    Published(
        "verl (EasyR1), Qwen2.5-VL-32B, 8 H100",
        EASY_R1,
        shape_of("Qwen/Qwen2.5-32B-Instruct"),
        "H100",
        Samples(prompts=512, prompt=375, rows=2560, mean=592, longest=2048),
        engines=1,
        per_engine=8,
        learners=8,
        passes=6,
        seconds=860,
        assumed=LENGTHS.replace("300 of a sample's 675", "592 of a sample's 967"),
    ),
    Published(
        "TRL (Mini-R1), Qwen2.5-3B, 4 H100",
        "https://www.philschmid.de/mini-deepseek-r1",
        shape_of("Qwen/Qwen2.5-3B-Instruct"),
        "H100",
        Samples(prompts=24, prompt=150, rows=192, mean=500, longest=1024, rounds=8),
        engines=1,
        per_engine=1,
        learners=3,
        passes=5,  # forward, backward (2), checkpointing; reference scores
        seconds=52.5,
        assumed="500 tokens a reply; the source says 45 to 60 s, and at most 1024 tokens",
    ),
    Published(
        "SkyRL, Qwen3.5-9B, 8 H100",
        "https://docs.skyrl.ai/docs/examples/spec_decode",
        QWEN35_9B,
        "H100",
        Samples(prompts=32, prompt=150, rows=256, mean=6000, longest=8192),
        engines=8,
        per_engine=1,
        learners=8,
        passes=5,  # forward, backward (2), checkpointing; old scores
        seconds=400.7,
        assumed="6000 tokens a reply of at most 8192; its linear attention is reckoned as attention",
        eager=True,
    ),
)


def main() -> None:
    """Print each step with its ratio."""
    for each in PUBLISHED:
        ratio = each.estimated() / each.seconds
        print(f"{each.name}: published {each.seconds:g} s, estimated {each.estimated():.0f} s, ratio {ratio:.2f}")
        print(f"  {each.source}" + (f"; assumed: {each.assumed}" if each.assumed else ""))


if __name__ == "__main__":
    main()
