"""Pure numbers: the model's description, its parts, their training and the fold. Knows no event loop and no peer."""
