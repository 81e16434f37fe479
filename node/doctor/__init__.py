"""`node doctor`: is this machine fit to take part, and what to do if it is not."""
