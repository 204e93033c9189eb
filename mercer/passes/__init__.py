"""Passes: what happens to a program between the language and the backends."""
