"""Health checks, for whoever runs them: the server for all, or a client in its own process. What a check may be
(`rules`), how one is written in short (`text`), what follows from what it finds (`ladder`), when it looks (`looks`),
and how (`probes`)."""
