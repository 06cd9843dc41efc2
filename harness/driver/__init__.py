"""Drive the plan of a suite: predict, score, time, analyse, record."""
