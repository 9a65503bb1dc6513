"""`secagg audit`: what a federation exposes, measured by attacking it."""
