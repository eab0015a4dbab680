"""`followyourpose inspect`: contents of data sets and of weights."""
