"""What a finished run is shown as: a table, figures, a page. Only the modules that draw import matplotlib."""
