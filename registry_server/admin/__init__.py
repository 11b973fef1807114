"""The HTTP side of a server: what people and their tools look at. What each page says comes from its own room."""
