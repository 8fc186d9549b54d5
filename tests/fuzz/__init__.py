"""Coverage-guided fuzzing of what reads foreign bytes: ``python -m tests.fuzz TARGET --seconds N --seed S``."""
