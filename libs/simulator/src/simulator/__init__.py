"""A local stand-in for the model providers' wire formats, with faults on request and an audit count."""
