"""Telemetry of workers and engine: kept in memory, queried by functions, watched by alerts, passed on to a collector."""
