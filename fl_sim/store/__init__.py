"""What is kept on disk: artifacts that must not be computed twice, and the files of every folder that fl-sim writes."""
