"""The context that a bundle is loaded with, where its caches have a placeholder for it."""
