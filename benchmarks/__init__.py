"""Benchmarks: measured claims, each with the command and the machine it came from. Not installed with the package."""
