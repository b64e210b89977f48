"""From a Minari dataset to normalised windows: reading, spaces, returns, windows, statistics."""
