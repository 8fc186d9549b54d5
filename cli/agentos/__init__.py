"""The agentos command."""
