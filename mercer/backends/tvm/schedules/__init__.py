"""One file per family of loop nests; `choose.py` picks the family of a nest."""
