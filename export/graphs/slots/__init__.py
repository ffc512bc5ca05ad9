"""What graphs do with the slots of their caches, written into flatbuffers: block by block, and of whatever number."""
