"""What is found out before minutes are spent on a start."""
