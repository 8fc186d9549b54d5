"""The workers, one folder each, and the kit that they share."""
