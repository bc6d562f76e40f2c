"""Runs a suite of benchmarks: Inspect runs the tasks and writes its logs, from which all results are made.

logs/            Inspect's own logs, for its viewer
items.jsonl      every item with its reply and verdicts, so that it can be judged again
benchmark.json   every number
settings-*.toml  the judge and other settings; the same command continues, one with others is refused
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from magic_rl.config import Config, dump_config
from magic_rl.errors import ChatError, StoreError, UserError
from magic_rl.evidence.items import ITEMS_FILE, hash_of, read_items
from magic_rl.evidence.sets import SUITES, Suite
from magic_rl.evidence.summary import SUMMARY_FILE, Result, compared, summary
from magic_rl.runs.judge import key_of
from magic_rl.runs.preflight import try_judge
from magic_rl.runs.target import endpoint_of
from magic_rl.store import atomic
from magic_rl.store.run import RunDirectory

_FAILED = 0.2  # share of calls that may fail; a task with more stops, because something is wrong with all of them

Display = Literal["rich", "plain", "none"]


@dataclass(frozen=True, slots=True)
class BenchmarkSpec:
    """What is measured."""

    target: str  # a run, a model folder or hub id, the address of a server, or a .toml file of its settings
    suite: Suite  # name in `SUITES`
    config: Config  # names the judge, and how models in this process are computed
    data: Mapping[str, str] = field(default_factory=dict)  # the user's copies of sets, by name
    limit: int = 0  # most rows of each set, evenly spaced; 0: all
    max_tokens: int = 0  # where replies are cut; 0: where the release cuts them
    any_count: bool = False  # whether to accept sets whose number of rows differs from the published one
    number: int | None = None  # round of a run's defender; None is the last


def benchmark(spec: BenchmarkSpec, out: Path, *, display: Display = "none", other: Path | None = None) -> Result:
    """Ask a model every item of a suite, judge the replies, and write the files above.

    Args:
        out: Folder; if it holds the same benchmark unfinished, that is continued.
        display: How Inspect shows progress.
        other: Folder of a finished benchmark of another model, to compare this one with on the same items.

    Raises:
        UserError: If the model, the judge or a set cannot be used, or `out` holds something else.
    """
    from magic_rl.evidence.tasks import items_of
    from magic_rl.runs.inspected import judge_of

    others = read_items(other / ITEMS_FILE) if other else []
    ours = spec.suite != "capability"
    with _settings(spec.config, out) as settings:
        tasks = _tasks(spec, settings)
        if ours:
            try_judge(judge_of(spec.config))
        logs = _run(tasks, _model(spec, settings), out, display)
    items = [item for log in logs for item in items_of(log, spec.target)] if ours else []
    judges = {verdict.judge for item in (*items, *others) for verdict in item.verdicts[:1]}
    if len(judges) > 1:
        raise UserError(f"{other}: has another judge ({' and '.join(sorted(judges))}); judge both by the same one")
    atomic.write_rows(out / ITEMS_FILE, items)
    result = Result(
        model=spec.target,
        judge=judge_of(spec.config).name if ours else "",
        suite=spec.suite,
        lines=summary(items),
        scores={} if ours else {log.eval.task: _scores(log) for log in logs},
        against=others[0].model if others else "",
        others=summary(others),
        changes=compared(items, others),
    )
    atomic.write_file(out / SUMMARY_FILE, (json.dumps(asdict(result), indent=2) + "\n").encode())
    return result


@contextmanager
def _settings(config: Config, out: Path) -> Iterator[str]:
    """Write the settings to a file named by its content, so that logs made with other settings belong to other tasks.

    The file stays if there are logs.
    """
    content = dump_config(config)
    file = out / f"settings-{hash_of(content)[:8]}.toml"
    new = [folder for folder in (out, out.parent) if not folder.exists()]
    atomic.make_folder(out)
    atomic.write_file(file, content.encode())
    try:
        yield str(file)
    finally:
        if not (out / "logs").is_dir():
            file.unlink(missing_ok=True)
            with suppress(OSError):  # a folder that holds something else
                for folder in new:
                    folder.rmdir()


def _tasks(spec: BenchmarkSpec, settings: str) -> list[Any]:
    """The suite's tasks; all sets are read before any model is loaded."""
    from magic_rl.runs.inspected import TASKS

    names = SUITES[spec.suite]
    if unknown := [name for name in spec.data if name not in names]:
        raise UserError(f"suite {spec.suite}: has no set {', '.join(unknown)}; its sets: {', '.join(names)}")
    if spec.suite == "capability":
        return [*names]
    given: dict[str, Any] = {"judge": settings, "limit": spec.limit, "max_tokens": spec.max_tokens}
    chosen = [name for name in names if name in spec.data] if spec.data else names
    return [TASKS[name](data=spec.data.get(name, ""), any_count=spec.any_count, **given) for name in chosen]


def _model(spec: BenchmarkSpec, settings: str) -> Any:
    """The target for Inspect: behind a server by Inspect's own client, else in this process."""
    from inspect_ai.model import GenerateConfig, get_model

    name = spec.target
    if spec.target.startswith(("http://", "https://")) or spec.target.endswith(".toml"):
        endpoint = endpoint_of(spec.target)
        key = key_of(endpoint, spec.target) or "none"
        limits = GenerateConfig(
            max_connections=endpoint.concurrency,
            max_retries=endpoint.attempts - 1,
            attempt_timeout=int(endpoint.timeout),
        )
        if endpoint.url:
            return get_model(f"openai-api/target/{endpoint.model}", config=limits, base_url=endpoint.url, api_key=key)
        name = endpoint.model
    number = spec.number
    if number is None and (Path(name) / "config.toml").is_file():  # named, so that a later defender is another model
        number = max((saved for saved, _ in RunDirectory.open(Path(name)).players("defender")), default=None)
    return get_model(f"magic_rl/{name}", settings=settings, number=number)


def _run(tasks: list[Any], model: Any, out: Path, display: Display) -> list[Any]:
    """Run the tasks. Returns Inspect's logs, with samples, in order. A folder with logs of other tasks is refused."""
    from inspect_ai import eval_set
    from inspect_ai._util.error import PrerequisiteError
    from inspect_ai.log import read_eval_log

    try:
        success, logs = eval_set(
            tasks,
            str(out / "logs"),
            model=model,
            display=display,
            max_tasks=1,
            fail_on_error=_FAILED,
            retry_immediate=False,
            retry_attempts=0,
            ctl_server=False,
            log_level="error",
        )
    except PrerequisiteError as error:
        said = " ".join(str(error.message).split())
        if "is not associated with a task" in said:
            raise StoreError(f"{out}: holds a benchmark of something else", "same command") from error
        raise UserError(f"Inspect: {said}") from error
    names = [_plain(one if isinstance(one, str) else one.name) for one in tasks]
    whole = [read_eval_log(log.location) for log in logs]
    whole.sort(key=lambda log: names.index(_plain(log.eval.task)))
    if len(whole) < len(tasks) or any(log.status == "cancelled" for log in whole):  # what Ctrl-C leaves
        raise KeyboardInterrupt
    if not success:
        failed = next(log for log in whole if log.status != "success")
        why = " ".join(failed.error.message.split())[:200] if failed.error else "it did not finish"
        raise ChatError(f"{failed.eval.task} stopped: {why}", remedy="repeat")
    return whole


def _plain(name: str) -> str:
    """A task's name without the package that it is registered in."""
    return name.rpartition("/")[2]


def _scores(log: Any) -> dict[str, float]:
    """Results of a task that is not ours, by scorer and metric, and the number of samples of each scorer."""
    found: dict[str, float] = {}
    for score in log.results.scores if log.results else ():
        found |= {f"{score.name}/{name}": metric.value for name, metric in score.metrics.items()}
        found[f"{score.name}/n"] = score.scored_samples or 0
    return found
