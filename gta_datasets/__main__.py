"""The command line, as `python -m gta_datasets`."""

from gta_datasets.cli import main

main()
