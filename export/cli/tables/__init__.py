"""What the verbs print. Nothing is computed here."""
