"""What recipes cost: bytes, text, acceptance and time, side by side."""
