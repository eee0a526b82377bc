"""Campaign of several stages: which stage is on, when it is over, and which model it starts from."""
