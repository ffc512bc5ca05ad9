"""A byte-fallback BPE tokenizer of Gemma's construction, small enough for the small pair."""

from __future__ import annotations

import json
import string

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from .corpus import Document

VOCABULARY = 2048
# The first tokens stand where Gemma 4 has them (pad 0, eos 1, bos 2, unk 3); the others are its control tokens.
SPECIAL_TOKENS = [
    "<pad>", "<eos>", "<bos>", "<unk>", "<|turn>", "<turn|>", "<|channel>", "<channel|>", "<|think|>", "<|tool>",
    "<tool|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>", '<|"|>',
]  # fmt: skip
_BYTES = [f"<0x{value:02X}>" for value in range(256)]
# Words keep their leading space; a newline takes the next line's indentation with it.
_PIECES = r"\n▁*|▁?[A-Za-z_]+|▁?[0-9]|▁?[^\n▁A-Za-z_0-9]+|▁+"

CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
{%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
{{- '<|turn>' + role + '\\n' -}}
{%- if message['content'] is string -%}
{{- message['content'] | trim -}}
{%- else -%}
{%- for part in message['content'] -%}{{- part['text'] | trim -}}{%- endfor -%}
{%- endif -%}
{{- '<turn|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|turn>model\\n' -}}{%- endif -%}
"""


def train_tokenizer(documents: list[Document]) -> PreTrainedTokenizerFast:
    """Train on `documents`; the result has exactly `VOCABULARY` entries and Gemma 4's turn format."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_PIECES), "isolated")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    printable = [character for character in string.printable if character not in " \t\r\x0b\x0c"] + ["▁"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL_TOKENS + _BYTES,
        initial_alphabet=printable,
        limit_alphabet=len(printable),
        show_progress=False,
    )
    tokenizer.train_from_iterator((document.text for document in documents), trainer)

    # The trainer knows no byte-fallback tokens, so they were passed as special ones: make them ordinary again.
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] in SPECIAL_TOKENS]
    fast = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        bos_token="<bos>",
        eos_token="<turn|>",
        pad_token="<pad>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast
