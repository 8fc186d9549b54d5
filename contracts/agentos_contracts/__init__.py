"""What crosses the members. Importing this package alone loads neither pydantic nor PyNaCl."""
