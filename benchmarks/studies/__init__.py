"""How well registrations find what is known: deformations made up on a template, and bodies turned any way round."""
