"""Generation engines behind one protocol, shared by training, scoring and evaluation."""
