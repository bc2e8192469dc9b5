"""A fleet on one machine, and what its parts need."""
