"""What LiteRT-LM's GPU backend takes of a graph, and why not. No torch."""
