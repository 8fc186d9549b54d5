"""The engine's own functions, one module per function namespace."""
