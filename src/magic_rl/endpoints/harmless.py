"""Taking the power of control out of a text that is sent to a server.

A server renders the conversation and its tokenizer turns the text of a control token into its id wherever it stands
(rule 3: text is never control). Where tokens are made here, `text.chat` prevents that exactly; a server's tokenizer is
out of reach, so whatever looks like a control token or a section mark of a known template gets a space put into it.
"""

from __future__ import annotations

import re

_CONTROL = re.compile(
    r"<\|(?=[^|<>\s]{1,64}\|?>)"  # ChatML, Llama 3 and 4, Qwen, Phi: <|im_end|>; Gemma 4: <|turn>
    r"|<(?=[a-z_]{1,32}\|>)"  # Gemma 4: <turn|>
    r"|<(?=｜[^｜<>\s]{1,64}｜>)"  # DeepSeek
    r"|<(?=/?(?:s|bos|eos|pad|unk|mask|sop|eop|BOS_TOKEN|EOS_TOKEN|think|answer|tool_call|tool_response)>)"
    r"|<(?=(?:start|end)_of_(?:turn|image)>)"  # Gemma
    r"|\[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|IMG|THINK)\]|gMASK\])"  # Mistral, GLM
    r"|<<(?=/?SYS>>)"  # Llama 2
    r"|\[(?=img-[0-9]+\])"  # where Ollama puts an image
    r"|<(?=(?:BEGIN|END) [A-Z ]{1,40}>)",  # Llama Guard's and Qwen3Guard's sections
)


def harmless(text: str) -> str:
    """The text with a space behind the first character of every control mark; anything else is untouched."""
    return _CONTROL.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)
