"""How well registrations find what is known, on a template, and how they do on pairs of real images."""
