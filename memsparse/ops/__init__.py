"""The method's equations as pure tensor functions, each with a slow twin in `reference`."""
