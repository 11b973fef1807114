"""The live page of a server, in a browser: `static/` is what the browser loads, the rest is what that asks for."""
