"""What lasts: values now, behind one interface for every store."""
