"""One loss per file; losses never call a network."""
