"""Every message between server and clients: one frozen dataclass each, checked when it is made and when it arrives."""
