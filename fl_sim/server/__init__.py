"""What the server has of its own: rows, a teacher, and the search for a rule."""
