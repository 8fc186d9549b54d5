"""``agentos import``: from the files of an iii project to a Realm and Workers, and a list of what is left to do."""
