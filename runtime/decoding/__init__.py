"""A bundle's graphs run on LiteRT: engine, speculative rounds, acceptance, sampling, sessions.
Tokens in, tokens out."""
