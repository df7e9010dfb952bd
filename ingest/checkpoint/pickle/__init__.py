"""A pickle machine that executes nothing: pickles into plain values, tensors and inert stubs."""
