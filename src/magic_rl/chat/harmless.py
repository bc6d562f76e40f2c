"""Makes control tokens harmless in text that is sent to a server.

A server renders the conversation, and its tokenizer turns the text of a control token into its id wherever it occurs
(rule 3: text is never control). If text is encoded here, `text.chat` prevents that exactly. A server's tokenizer is out
of reach, so anything that looks like a control token or a section mark of a known template gets a space. Families
spell such marks alike, so a few shapes cover most of them; names are listed if the shape is also that of HTML or of
ordinary brackets.
"""

from __future__ import annotations

import re

_MARKS = (
    r"<[|｜][^|｜<>\s]{1,64}[|｜]?>",  # ChatML, Llama 3 and 4, GLM, Kimi, Cohere, gpt-oss, DeepSeek: <|im_end|>
    r"<[a-z_]{1,32}\|>",  # Gemma 4: <turn|>
    r"</?[A-Za-z]+(?:_[A-Za-z0-9]+)+>",  # Gemma 3, Cohere, Baichuan: <start_of_turn>, <BOS_TOKEN>, <reserved_106>
    r"</?[a-z]+:[a-z_0-9]+>",  # Seed-OSS, MiniMax: <seed:bos>
    r"</?(?:s|bos|eos|pad|unk|mask|sep|cls|sop|eop|PAD|UNK|CLS|SEP|unused\d+|think|thought|answer|role|用户|AI)>",
    r"<</?SYS>>",  # Llama 2
    r"<(?:BEGIN|END) [A-Z ]{1,40}>",  # Llama Guard's and Qwen3Guard's sections
    r"\[\|[^|\[\]\s]{1,64}\|\]",  # EXAONE: [|user|]
    r"\[/?[A-Z]{2,}(?:_[A-Z0-9]+)*\]",  # Mistral, EXAONE, Kimi: [INST], [SYSTEM_PROMPT], [BOS]
    r"\[(?:[gs]MASK|(?:start|end)_header_id|multimodal|@BOS@|unused\d+)\]",  # GLM, Kimi, Gemma, Pangu
    r"\[img-\d+\]",  # where Ollama puts an image
    r"\][~!<][a-z~!]{0,4}[\[\]]|\[e~\[",  # MiniMax: ]~b], ]~!b[, ]<]image[>[, [e~[
)
_CONTROL = re.compile(rf"(?=({'|'.join(_MARKS)})).")


def harmless(text: str) -> str:
    """The text with a space after the first character of each control mark; anything else is unchanged."""
    return _CONTROL.sub(lambda found: f"{found[0]} ", text)
