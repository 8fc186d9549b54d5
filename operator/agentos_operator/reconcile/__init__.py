"""read → plan → apply → one status write, for one key at a time; one module for each kind of key."""
