"""Who may do what: identities and their grants, and the wrapper around a table of methods that asks for them."""
