"""Views on an augmented dataset for the libraries that train on it, one module per library.

Installed as `gta_datasets.adapters`. An adapter reads the dataset's own arrays, imports its target library only when
called, and names the extra to install when that library is missing.
"""

__all__: list[str] = []
