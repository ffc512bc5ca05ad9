"""A LoRA adapter in PEFT's format, that teaches the small target a few dialogues by heart, so that it thinks, calls
tools and ends turns: `train.py` makes it, `dialogues.py` beside this folder holds them, `chat_template.jinja` is their
format and `generation_config.json` names the stop tokens."""
