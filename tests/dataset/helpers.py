"""What the tests of this folder know of their source."""

__all__ = ["SOURCES", "TERMINATED"]

SOURCES, TERMINATED = 16, range(1, 15)
