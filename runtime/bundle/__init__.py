"""Bundles of any maker: the container, its models, what they promise each other. Nothing is run here."""
