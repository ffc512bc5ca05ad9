"""The child process: `python -m gemma_mtp.runtime.stock KIND REQUEST RESULT`, two JSON files."""

import json
import sys
from pathlib import Path

from . import conversations, sessions

_ANSWERS = {"sessions": sessions.answer, "conversations": conversations.answer}

if __name__ == "__main__":
    kind, asked, answered = sys.argv[1:]
    result = _ANSWERS[kind](json.loads(Path(asked).read_text("utf-8")))
    Path(answered).write_text(json.dumps(result), "utf-8")
