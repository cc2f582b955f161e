"""``python -m bench``: the standard set of measurements, saved in bench/results."""
