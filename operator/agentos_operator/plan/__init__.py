"""Pure planning: a snapshot of all inputs goes in, a value that says what is wanted comes out. No I/O, no clock of its own."""
