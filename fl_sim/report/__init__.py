"""What a finished run is shown as: a table, figures, a page. matplotlib is imported by the modules that draw, not here."""
