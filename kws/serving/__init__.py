"""What `python -m kws.serve` serves: the page and the Wyoming protocol, over sockets that bound their clients."""
