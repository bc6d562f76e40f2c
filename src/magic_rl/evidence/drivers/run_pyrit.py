"""PAIR, TAP and Crescendo. `evidence.foreign` runs this where PyRIT is installed and magic_rl is not.

Reads a job as JSON. The HTTP client to the target records each call as a line; the call that would exceed the budget
ends the attack on that seed.
"""

import asyncio
import json
import sys

import openai
from pyrit.executor.attack import (
    AttackAdversarialConfig,
    CrescendoAttack,
    PAIRAttack,
    TreeOfAttacksWithPruningAttack,
)
from pyrit.prompt_target import OpenAIChatTarget
from pyrit.setup import IN_MEMORY, initialize_pyrit_async

LINES, sys.stdout = sys.stdout, sys.stderr  # keeps PyRIT's own output out of our lines


def say(row):
    print(json.dumps(row), file=LINES, flush=True)


IN_A_ROW = 5  # consecutive failed calls after which the attack stops


class BudgetedClient(openai.DefaultAsyncHttpxClient):
    """The client for calls to the target about one seed, limited by the budget."""

    failed = 0  # consecutive failed calls, about any seed

    def __init__(self, seed, budget):
        super().__init__()
        self.seed, self.left, self.under_way = seed, budget, 0
        self.refused, self.spent = False, asyncio.Event()

    async def send(self, request, **how):
        if not self.left:
            self.refused = True
            self.tell()
            await asyncio.Event().wait()  # until the attack is ended
        self.left, self.under_way = self.left - 1, self.under_way + 1
        row = {"messages": json.loads(request.content)["messages"], "reply": None, "failed": "broken off"}
        try:
            response = await super().send(request, **how)
            await response.aread()
            if response.is_success:
                row |= {"reply": response.json()["choices"][0]["message"]["content"] or "", "failed": None}
            else:
                row["failed"] = f"HTTP {response.status_code}: {response.text[:120]}"
        finally:
            BudgetedClient.failed = BudgetedClient.failed + 1 if row["failed"] else 0
            say({"seed": self.seed, **row})
            self.under_way -= 1
            self.tell()
        return response

    def tell(self):
        if self.refused and not self.under_way:
            self.spent.set()


def chat(job, who, **settings):
    return OpenAIChatTarget(
        endpoint=job[who]["url"], model_name=job[who]["model"], api_key=job["keys"][who] or "none", **settings
    )


async def attack(job, seed, objective):
    budgeted = BudgetedClient(seed, job["budget"])
    client = {"http_client": budgeted, "timeout": 300}
    limit = {"max_tokens": job["max_tokens"]}  # the name that all servers know
    target = chat(
        job, "target", httpx_client_kwargs=client, temperature=job["temperature"], extra_body_parameters=limit
    )
    helper = AttackAdversarialConfig(target=chat(job, "helper"))
    made = {"pair": PAIRAttack, "tap": TreeOfAttacksWithPruningAttack, "crescendo": CrescendoAttack}[job["attack"]]
    attack = made(objective_target=target, attack_adversarial_config=helper, **job["settings"])
    running = asyncio.ensure_future(attack.execute_async(objective=objective))
    spent = asyncio.ensure_future(budgeted.spent.wait())
    await asyncio.wait({running, spent}, return_when=asyncio.FIRST_COMPLETED)
    for task in (running, spent):
        task.cancel()
    await asyncio.gather(running, spent, return_exceptions=True)
    say({"seed": seed, "done": True})


async def main():
    job = json.load(sys.stdin)
    await initialize_pyrit_async(memory_db_type=IN_MEMORY)
    for seed, objective in job["seeds"]:
        await attack(job, seed, objective)
        if BudgetedClient.failed >= IN_A_ROW:
            sys.exit(f"{BudgetedClient.failed} calls to the target in a row failed")


asyncio.run(main())
