"""Runs WebAssembly modules under limits of memory, fuel and time."""
