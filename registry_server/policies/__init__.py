"""CORE: the traffic policies of services: what may stand in one, where they are, and what clients make of them."""
