"""Tests of making and checking an instance."""
