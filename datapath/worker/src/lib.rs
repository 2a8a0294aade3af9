//! Polling threads: the loop, the plan it runs, counters, capture.
