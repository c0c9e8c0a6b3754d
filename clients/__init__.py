"""The client's half: who client k is, and what it answers to each message."""
