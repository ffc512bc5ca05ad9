"""Export Gemma 4 targets and their MTP drafters to LiteRT-LM bundles."""
