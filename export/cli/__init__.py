"""The `gemma-mtp-export` command, a file per verb: parse, call, print. No logic."""
