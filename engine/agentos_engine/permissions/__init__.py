"""What each worker may do on the bus: grants by identity."""
