"""Histories that several processes record of what they called, and a checker that says whether one order explains them."""
