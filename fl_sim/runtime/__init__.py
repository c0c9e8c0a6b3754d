"""Where clients run: three implementations of Flower's `Grid`, and one that checks what comes through them."""
