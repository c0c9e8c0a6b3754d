"""The HTML page of a run or a sweep."""
