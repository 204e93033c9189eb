"""Choices that were measured: what a kernel is called, where its choice is kept, how it is found."""
