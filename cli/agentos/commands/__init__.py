"""What the command line offers, a module for each group. Only light imports: what a command needs, it imports itself."""
