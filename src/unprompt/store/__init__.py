"""Files of a run, and what stands in them."""
