"""Membership inference: was this example trained on? Scores are higher the more an attack says yes."""
