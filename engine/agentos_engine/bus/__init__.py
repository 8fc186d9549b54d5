"""Who is connected, which functions there are, and the calls between them. No sockets, no clock of its own."""
