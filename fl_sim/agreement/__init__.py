"""How far clients' predictions agree, and what ensembles of their models gain."""
