"""The pictures of the reports, each a function of what was measured.

Grey is the source, blue what was generated, orange the truth or a limit, in every picture of one method. Where methods
stand side by side, each has a colour of its own.
"""
