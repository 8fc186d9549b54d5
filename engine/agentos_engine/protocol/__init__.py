"""The wire protocol without I/O: bytes to message values, values to reply bytes."""
