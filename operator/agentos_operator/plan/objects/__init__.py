"""The objects that a Worker and a Realm are made of, as JSON. Everything passes Pod Security "restricted"."""
