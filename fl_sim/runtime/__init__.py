"""Where clients run: three implementations of Flower's `Grid`, and one ledger over them."""
