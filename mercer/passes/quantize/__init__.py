"""From real numbers to integers: ranges from data, codes, and an integer form of every operator that has one."""
