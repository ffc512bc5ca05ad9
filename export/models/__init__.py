"""The models re-authored for tracing, functional in their weights, and the KV signature that target and drafter share.
No file is read or written here."""
