"""Every weight of a bundle against the checkpoint's own: what must be there, how it is stored, where they differ."""
