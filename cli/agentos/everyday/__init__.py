"""The everyday commands: what they ask of an engine's console API, and how they show it."""
