"""Tasks that live outside the package: what a user writes to add a kind of their own."""
