"""Send requests, plain and in base64, and count refusals: PyRIT's prompt-sending attack on one endpoint."""

import asyncio
import os

from pyrit.executor.attack import AttackConverterConfig, AttackScoringConfig, PromptSendingAttack
