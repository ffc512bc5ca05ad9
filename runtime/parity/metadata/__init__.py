"""What a bundle holds beside its graphs and weights, compared with the checkpoint's own files."""
