"""One effect per file: a pure function, its random array form and its dictionary form."""
