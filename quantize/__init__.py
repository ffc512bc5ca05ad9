"""How weights are stored: named recipes and tensor-wise quantization."""
