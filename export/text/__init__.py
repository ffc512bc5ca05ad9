"""What a checkpoint has beside its weights: tokenizer, chat template, special tokens, sampling, as they stand there."""
