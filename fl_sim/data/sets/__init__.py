"""The data sets, one a file: whatever `Source` a file here defines is a data set by its name."""
