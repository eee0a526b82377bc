"""Campaign of several stages: which is on, when it is over, which model the first begins with."""
