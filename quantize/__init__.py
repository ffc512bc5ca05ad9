"""How weights are stored: formats, recipes as data, and tensor-wise quantization."""
