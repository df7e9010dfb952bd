"""A pickle virtual machine that executes nothing: it turns pickles into plain values, tensors and inert stubs."""
