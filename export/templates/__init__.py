"""A checkpoint's chat template, made to render on LiteRT-LM's engine as in transformers: both engines, a set of
conversations to compare them on, and the rewriting of what the runtime's engine lacks."""
