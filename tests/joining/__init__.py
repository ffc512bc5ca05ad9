"""Graphs joined from traced parts, against graphs traced whole."""
