"""The engine: a WebSocket bus that speaks the iii protocol, HTTP routes to its functions, and identity."""
