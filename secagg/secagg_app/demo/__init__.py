"""`secagg demo`: a whole federation of real processes on one machine, with the commands of a real deployment."""

from secagg_app.demo.command import demo as demo
