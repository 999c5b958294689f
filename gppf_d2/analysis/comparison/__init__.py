"""Several runs side by side on one page: results, settings that differ, losses, routes, speed."""
