"""Sockets: the worker port, the REST port, the admin port."""
