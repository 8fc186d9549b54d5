"""A realm on this machine: an engine, the workers of some folders and files, and what keeps them running."""
