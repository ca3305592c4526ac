"""Every figure of the notebooks, one module a notebook; ``style`` holds what they share."""
