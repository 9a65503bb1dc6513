"""`python -m secagg_app`: the same as the `secagg` command."""

from secagg_app.main import main

main()
