"""Run a bundle on LiteRT and compare it with the torch model. Imports nothing of `export`."""
