"""A small task that needs no data set: questions whose answer is one word."""

from inspect_ai import Task, task
from inspect_ai.dataset import json_dataset
from inspect_ai.model import GenerateConfig
from inspect_ai.scorer import includes
from inspect_ai.solver import generate


@task
def questions() -> Task:
    """Ten questions; the answer must hold the right word."""
    config = GenerateConfig(temperature=0, max_tokens=64)
    return Task(dataset=json_dataset("questions.jsonl"), solver=generate(), scorer=includes(), config=config)
