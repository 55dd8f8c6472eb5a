"""The commands beside Lightning's, a module each with a ``main`` that takes arguments and returns an exit status."""
