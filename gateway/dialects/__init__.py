"""Public dialects of the events: translators, pure, one module each."""
