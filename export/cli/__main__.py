"""`python -m gemma_mtp.export.cli`."""

from .main import main

main()
