"""Few drawing functions, each used by several notebooks: ``maps`` in a grid, and ``charts`` of tidy tables."""
