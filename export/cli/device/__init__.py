"""`device`: a bundle's worth on a phone."""
