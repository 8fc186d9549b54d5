"""Queues: when which job runs, what a failure leads to, and who gets the messages of a topic."""
