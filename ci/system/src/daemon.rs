//! culvertd with a configuration of the test's own, in a folder of its own, and culvertctl to ask it.
