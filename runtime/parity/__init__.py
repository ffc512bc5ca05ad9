"""Is a bundle still the torch model? Stage by stage against transformers' own classes, with numbers and thresholds. The
only room with torch in it."""
