"""Floor 1: the protocols that leaves keep. Their prose is the contract; `perdure.testing` checks it."""
