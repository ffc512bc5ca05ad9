"""Stock LiteRT-LM, the unmodified C++ runtime from PyPI, in a process of its own: sessions and conversations."""

from .child import StockRuntimeError
from .conversations import Conversation, ConversationRequest, ConversationRun, Turn, run_conversations
from .sessions import StockRun, run_stock

__all__ = [
    "Conversation",
    "ConversationRequest",
    "ConversationRun",
    "StockRun",
    "StockRuntimeError",
    "Turn",
    "run_conversations",
    "run_stock",
]
