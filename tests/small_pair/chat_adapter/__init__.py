"""A LoRA adapter that teaches the small target a few dialogues by heart; `python -m tests.small_pair.chat_adapter`."""
