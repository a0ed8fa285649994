"""Grading a class: repair returned notebooks, run them isolated, mark them, write feedback."""
