"""Who is timed: one module per framework, each with `OFFERS`, from a kind of task to the candidates for it."""
