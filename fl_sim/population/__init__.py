"""Which client holds which rows, the prepared data, and the models that are made of them."""
