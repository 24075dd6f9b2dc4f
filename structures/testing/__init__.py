"""Test doubles and harnesses.  Only tests import this package."""
