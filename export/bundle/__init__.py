"""Models, tokenizer and metadata to `model.litertlm` and its manifest. Nothing is traced or quantized here."""
