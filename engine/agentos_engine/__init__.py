"""The engine: a WebSocket bus that speaks the iii protocol, HTTP routes to its functions, and identity."""

__version__ = "0.1.0"
"""As in pyproject.toml: to ask the installed package costs 3 MB."""
