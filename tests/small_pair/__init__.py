"""The small trained pair that ships with the project: how it was made, and its held-out text."""
