"""Reading a module's graph and deriving a faster one that gives the same answer."""
