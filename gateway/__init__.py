"""The stateless edge: client sockets on one side, Redis on the other."""
