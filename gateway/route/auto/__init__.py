"""The auto router: which kind of request this is, so that its model can be chosen. Pure."""
