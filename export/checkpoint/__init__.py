"""What a person has: hub id or folder to configurations, lazily read tensors and the list of weights. No graph is made
here."""
