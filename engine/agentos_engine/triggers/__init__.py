"""Trigger types: what makes a function run without a caller. One module per built-in type."""
