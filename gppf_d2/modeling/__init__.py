"""Models: the lego backbone, the view through which heads reach it, and heads of our own."""
