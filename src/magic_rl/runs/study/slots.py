"""How many runs fit on this machine side by side, and what share of it each gets.

Threads are set in the environment and not in the config, so a run's config is the same wherever it runs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from magic_rl.config import Config

Environment = Mapping[str, str]

_GIB = 2**30
_LEAST_CORES = 2  # on one core a run takes nearly twice as long, so two at a time gain little
_BESIDES_WEIGHTS = 3 * _GIB  # peak of a learning step of the reference workload; see `bench.py`
_COPIES = 4  # of a file in bfloat16: weights in float32, and once more laid out for sampling


def slots(config: Config, jobs: int = 0) -> Sequence[Environment]:
    """One environment for each run that can go on at the same time: what it adds to that of its processes.

    Args:
        config: One of the study's; the others need about as much.
        jobs: How many; 0: one per GPU or, without GPUs, as many as have two cores and enough memory each.
    """
    gpus = _gpus(config)
    if gpus:
        count = jobs or len(gpus)
        return [{"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)], **_threads(count)} for i in range(count)]
    count = jobs or _fitting(config)
    return [_threads(count) for _ in range(count)]


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _threads(jobs: int) -> dict[str, str]:
    """A share of the cores, unless the user has set the number of threads."""
    if jobs == 1 or "OMP_NUM_THREADS" in os.environ:
        return {}
    return {"OMP_NUM_THREADS": str(max(1, cores() // jobs))}


def _gpus(config: Config) -> list[str]:
    """Numbers of the CUDA devices that the runs would use."""
    if config.engine.device == "cuda" or (config.engine.device == "auto" and Path("/dev/nvidiactl").exists()):
        import torch

        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        return [visible[i] if visible[0] else str(i) for i in range(torch.cuda.device_count())]
    return []


def _fitting(config: Config) -> int:
    """How many runs have two cores and enough memory each; 1 on MPS, or if a model's size is not known yet."""
    names = {config.player(role).model for role in config.roles}
    if config.engine.device == "mps" or not all(name == "default" or Path(name).is_dir() for name in names):
        return 1
    weights = sum(
        path.stat().st_size for name in names if name != "default" for path in Path(name).glob("*.safetensors")
    )
    if "default" in names:
        weights += _GIB // 4
    free, size = _free_memory(), _BESIDES_WEIGHTS + _COPIES * weights

    def needed(runs: int) -> int:
        return runs * size * min(config.engine.processes, config.engine.threads or cores() // runs)

    return next((runs for runs in range(cores() // _LEAST_CORES, 1, -1) if needed(runs) <= free), 1)


def _free_memory() -> int:
    """Bytes of memory available to new processes; 0 on Windows, where it is not known."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return free
    return min(free, limit - used)
