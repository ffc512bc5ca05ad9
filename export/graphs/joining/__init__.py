"""A signature's graph from parts that are traced once each: what a pass runs, the parts side by side, and joined."""
