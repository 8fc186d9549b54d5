"""What a person sees of an engine: the page, its API, and the record of calls. Imported only where it is asked for."""
