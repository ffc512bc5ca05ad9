"""The verbs about how weights are stored: what there is, and what it costs."""
