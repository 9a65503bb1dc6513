"""Gradient inversion: what of the training data can be read off an update?"""
