"""Signatures to flatbuffers: worker processes, the converter that they run, and the results that are kept."""
