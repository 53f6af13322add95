"""Wire formats as pure translators."""
