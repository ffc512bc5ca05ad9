"""Text to tokens and back, chat templates, prompt files. No model is run here."""
