"""transformers' own models, weights read layer by layer. No bundle is touched here."""
